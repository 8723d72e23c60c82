"""What tests/conftest.py adds to pytest: a command beside the tests, groups for processes, things made once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Beside, _group


class Terminal:
    """Takes down what is written."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def section(self, title: str, **markup: bool) -> None:
        self.lines.append(title)

    def write_line(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("command", "before", "after", "said"),
    [
        ("echo seen", pytest.ExitCode.OK, pytest.ExitCode.OK, "passed"),
        ("echo seen >&2; exit 3", pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, "FAILED"),
        ("echo seen; exit 3", pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERRUPTED, "FAILED"),
    ],
)
def test_a_command_beside_the_tests_is_heard_and_fails_the_run(
    command: str, before: pytest.ExitCode, after: pytest.ExitCode, said: str
) -> None:
    session: Any = SimpleNamespace(exitstatus=before)
    terminal: Any = Terminal()
    beside = Beside(command)
    beside.pytest_sessionfinish(session)
    beside.pytest_terminal_summary(terminal)
    beside.pytest_unconfigure()
    assert session.exitstatus == after
    assert terminal.lines == [f"{command}: {said}", "seen"]


def test_it_ends_with_a_run_that_is_broken_off(tmp_path: Path) -> None:
    beside = Beside("sleep 60")
    beside.pytest_unconfigure()
    assert beside._process.wait(timeout=10) != 0


def test_tests_of_a_file_stay_together_and_those_of_a_trained_method_as_well() -> None:
    def group(file: str, **params: str) -> str:
        item: Any = SimpleNamespace(path=Path(file), callspec=SimpleNamespace(params=params))
        return _group(item)

    assert group("test_a.py", name="x") == group("test_a.py", name="y") == "test_a"
    names = ("lite_eval", "hcms", "lstm", "uniform", "ada_frame", "oracle")
    assert len({group("test_method_contract.py", name=name) for name in names}) == 2
    assert group("test_method_contract.py") == "test_method_contract"


def test_what_is_made_once_is_not_made_again(once: Any) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("made")

    first = once("a-test-of-once", make)
    assert once("a-test-of-once", make) == first and made == [first]
    with pytest.raises(ValueError):
        once("a-test-that-fails", lambda path: int("no"))
    assert once("a-test-that-fails", make).read_text() == "made", "what has failed is not taken for whole"
