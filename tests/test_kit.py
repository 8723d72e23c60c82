"""The files around the code: changelog, hooks, the table of moved modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def test_hooks_check_what_make_lint_checks_with_the_projects_own_tools() -> None:
    """A hook that is fetched would be another version of the tool, from elsewhere."""
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    entries = [hook["entry"] for hook in repos[0]["hooks"]]
    makefile = (ROOT / "Makefile").read_text()
    rule = makefile.split("\nlint:")[1].split("\n\n")[0]
    tools = re.findall(r"-m (\w+(?: check| format --check)?)", rule)
    assert len(tools) == 3
    for tool in tools:
        words = set(tool.split())
        assert any(words <= set(entry.split()) for entry in entries), f"no hook runs {tool}"
    assert all(entry.startswith(".venv/bin/python -m ") for entry in entries)
    assert all(hook["language"] == "system" for hook in repos[0]["hooks"])


def test_the_changelog_begins_with_what_is_not_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert sections[0] == "Unreleased"
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for version in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        under = re.findall(r"^### (.+)$", version, re.MULTILINE)
        assert sorted(under) == sorted(set(under)), "what was added stands in one place"
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


MOVED = re.findall(
    r"^\| .*? \| `([\w.]+)` \|$", (ROOT / "docs" / "moved_modules.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize("module", sorted(set(MOVED)))
def test_moved_modules_are_where_the_table_says(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_the_table_of_moved_modules_is_read() -> None:
    assert len(MOVED) > 100
