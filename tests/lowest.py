"""The lowest versions that `pyproject.toml` declares, as constraints for pip; and which versions are here.

`python -m tests.lowest` prints them; `make test-lowest` installs them. What they need in turn is left to pip.
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
CONSTRAINTS = PYPROJECT.with_name("constraints.txt")
REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?:>=|==)(?P<version>[0-9][0-9.]*)(?:,<[0-9.]+)?"
)


def declared(pyproject: Path = PYPROJECT) -> list[str]:
    """Every requirement of the project and of its extras, as written.

    Without `test`: what runs the tests is no part of what they are about. Raises `OSError` and `TOMLDecodeError`.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = {name: extra for name, extra in project["optional-dependencies"].items() if name != "test"}
    return [*project["dependencies"], *(each for extra in extras.values() for each in extra)]


def lowest(requirements: Iterable[str]) -> dict[str, str]:
    """Name to lowest version.

    Raises `ValueError` for a requirement without a lower bound, and for a name that has two.
    """
    pins: dict[str, str] = {}
    for requirement in requirements:
        match = REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise ValueError(
                f"{requirement!r}: NAME>=VERSION, NAME>=VERSION,<VERSION or NAME==VERSION is expected"
            )
        name, version = match["name"], match["version"]
        if pins.setdefault(name, version) != version:
            raise ValueError(f"{name} has two lower bounds, {pins[name]} and {version}: give both extras one")
    return dict(sorted(pins.items()))


def is_pinned(name: str) -> bool:
    """Whether the version that is installed is the one of `constraints.txt`, which CI has.

    For tests of what a library's random numbers lead to, which no version owes to another one.
    """
    (version,) = re.findall(
        rf"^{re.escape(name)}==(.+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE
    )
    installed = importlib.metadata.version(name).split("+")[0]
    return bool(installed == version)


if __name__ == "__main__":
    for name, version in lowest(declared()).items():
        print(f"{name}=={version}")
