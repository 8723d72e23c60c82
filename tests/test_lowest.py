"""The lowest versions: what is made of `pyproject.toml`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.lowest import CONSTRAINTS, declared, is_pinned, lowest


def test_extras_count_and_what_runs_the_tests_does_not(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[project]\ndependencies = ["torch>=2.6"]\n'
        '[project.optional-dependencies]\nplatform = ["ray[tune,data]>=2.52,<3"]\ntest = ["pytest"]\n'
    )
    assert lowest(declared(file)) == {"ray": "2.52", "torch": "2.6"}


@pytest.mark.parametrize(
    "requirement", ["torch", "torch<3", "torch~=2.6", "torch>=2.6; python_version<'3.12'"]
)
def test_what_has_no_lower_bound_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match=r"NAME>=VERSION.* is expected"):
        lowest([requirement])


def test_two_extras_agree() -> None:
    assert lowest(["boto3>=1.40", "boto3>=1.40"]) == {"boto3": "1.40"}
    with pytest.raises(ValueError, match=r"boto3 has two lower bounds, 1\.40 and 1\.41"):
        lowest(["boto3>=1.40", "boto3>=1.41"])


def test_ours_are_all_understood_and_none_is_above_what_ci_has() -> None:
    pins = dict(
        line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line and line[0] != "#"
    )
    found = lowest(declared())
    assert {"ray", "optuna", "mlflow", "torch"} <= found.keys() <= pins.keys()

    def numbers(version: str) -> list[int]:
        return [int(number) for number in version.split(".")]

    assert [name for name, version in found.items() if numbers(version) > numbers(pins[name])] == []


def test_whether_a_version_is_the_pinned_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = dict(
        line.split("==") for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch==")
    )
    monkeypatch.setattr("importlib.metadata.version", lambda name: pins[name] + "+cpu")
    assert is_pinned("torch")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.6.0")
    assert not is_pinned("torch")
