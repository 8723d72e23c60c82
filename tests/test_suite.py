"""What tests/conftest.py adds to pytest: a command beside the tests, groups for processes, things made once."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from tests.conftest import Beside, Clusters, group_of


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
    assert (
        group_of("tests/test_a.py::test_one[x]") == group_of("tests/test_a.py::test_two") == "tests/test_a.py"
    )
    contract = "tests/trainables_tests/test_method_contract.py::"
    names = ("lite_eval", "hcms", "lstm", "uniform", "ada_frame", "oracle")
    assert len({group_of(f"{contract}test_a[{name}-default]") for name in names}) == 2
    for name in names:
        same = (f"test_a[{name}-default]", f"test_b[True-{name}-network]", f"test_c[{name}]")
        assert len({group_of(contract + each) for each in same}) == 1
    sweeps = "tests/platform_tests/test_method_sweeps.py::test_a"
    assert group_of(f"{sweeps}[hcms]") == group_of(f"{sweeps}[ada_frame]")
    assert len({group_of(f"{sweeps}[{name}]") for name in ("hcms", "model_selection")}) == 2


@pytest.mark.parametrize("number", range(6))
def test_groups_are_kept_when_tests_are_shared_out(
    number: int, once: Any, pytestconfig: pytest.Config
) -> None:
    """By `make test`, which shares out groups: every one of these tests runs where the first has run."""
    if not pytestconfig.getoption("loadgroup", True):
        pytest.skip("tests are shared out one by one")
    process = os.environ.get("PYTEST_XDIST_WORKER", "")
    assert once("a-process-of-a-group", lambda path: path.write_text(process)).read_text() == process


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


def test_a_shared_cluster_that_is_left_busy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters, free = Clusters(), [0.0, 1.0, 2.0]
    ended: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: not ended)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": free.pop(0) if free else 0.0})
    clusters._open.callback(lambda: ended.append(True))
    clusters.end_unless_idle()
    assert not ended and not free
    clusters.end_unless_idle(seconds=0.2)
    assert ended == [True]
