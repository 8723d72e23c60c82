"""What `make mutants` changes, and that its table speaks of what there is."""

from __future__ import annotations

import pytest
from tests.mutants import ROOT, Covered, Table, read_table, report, sampled, shown
from tests.mutations import Mutation, mutations

CODE = """
def f(x: int = 1, *, flag: bool = True) -> list[int]:
    '''3 < 4.'''
    if x < 2 and not flag:
        raise ValueError(f"{x + 1}")
    g(x, key=flag)
    assert x == 5
    return [max(y, 7) for y in h(-x, strict=True) if y]
"""
BECOMES = {
    "def f(x: int = 2, *, flag: bool = True) -> list[int]:",
    "def f(x: int = 1, *, flag: bool = False) -> list[int]:",
    "if (not (x < 2 and not flag)):",
    "if x < 2 or not flag:",
    "if x <= 2 and not flag:",
    "if x >= 2 and not flag:",
    "if x < 3 and not flag:",
    "if x < 2 and (flag):",
    "pass",
    "g(x)",
    "return None",
    "return [min(y, 7) for y in h(-x, strict=True) if y]",
    "return [max(y, 8) for y in h(-x, strict=True) if y]",
    "return [max(y, 7) for y in h((x), strict=True) if y]",
    "return [max(y, 7) for y in h(-x, strict=True) if (not (y))]",
}


def found(code: str, seed: int = 0) -> list[Mutation]:
    return mutations("m.py", code, seed)


def test_every_kind_of_change_is_made_once_and_what_only_a_reader_sees_is_left_alone() -> None:
    changes = found(CODE)
    assert {change.becomes for change in changes} == BECOMES
    assert sorted(change.line for change in changes if change.becomes == "pass") == [
        "g(x, key=flag)",
        'raise ValueError(f"{x + 1}")',
    ]
    for change in changes:
        old, new = CODE.splitlines(), change.source.splitlines()
        assert old[change.number - 1].strip() == change.line
        assert new[change.number - 1].strip() == change.becomes
        assert [*old[: change.number - 1], *old[change.number :]] == [
            *new[: change.number - 1],
            *new[change.number :],
        ]


def test_a_seed_draws_the_same_changes_whatever_is_written_elsewhere() -> None:
    before = [(change.line, change.becomes, change.place) for change in found(CODE)]
    assert before == [(c.line, c.becomes, c.place) for c in found(CODE)] == sorted(before, key=lambda c: c[2])
    after = [(c.line, c.becomes, c.place) for c in found("import os\n\n\nother = 1 + 2\n" + CODE)]
    assert set(before) < set(after)
    assert [c.place for c in found(CODE, seed=1)] != [c[2] for c in before]


def test_of_every_module_some_changes_are_drawn_and_else_the_first_of_all() -> None:
    modules = [
        mutations(name, code, 0) for name, code in (("a.py", CODE), ("b.py", CODE + "x = 1 + 2 * 3 - 4\n"))
    ]
    drawn = sampled(modules, 12)
    assert len({m.place for m in drawn}) == 12
    assert [m.place for m in drawn[:8]] == [m.place for each in modules for m in each[:4]]
    others = sorted(m.place for each in modules for m in each[4:])
    assert [m.place for m in drawn[8:]] == others[:4]
    assert len(sampled(modules, 10_000)) == sum(map(len, modules)) and len(sampled(modules, 3)) == 3


def test_a_survivor_may_be_if_its_line_is_listed() -> None:
    change = next(c for c in found(CODE) if c.becomes == "g(x)")
    entry = {"module": "m.py", "line": "g(x, key=flag)", "reason": "key is the default"}
    for allowed, may in (
        (entry, True),
        ({**entry, "becomes": "g(x)"}, True),
        ({**entry, "becomes": "pass"}, False),
        ({**entry, "module": "n.py"}, False),
        ({**entry, "line": "g(x)"}, False),
    ):
        assert Table(tests={}, allowed=[allowed]).entry(change) == (allowed if may else None)


def test_only_what_changes_nothing_is_left_out_of_the_share(capsys: pytest.CaptureFixture[str]) -> None:
    changes = found(CODE)[:4]
    listed = {"module": "m.py", "line": changes[0].line, "becomes": changes[0].becomes, "reason": "r"}
    results = [(changes[0], "survived"), *((change, "killed") for change in changes[1:])]
    same = Table(tests={}, allowed=[listed])
    assert report({"m.py": changes}, results, same, goal=1.0) == 0
    assert "3 of 3 that change something are noticed: 100.0 %" in capsys.readouterr().out
    other = Table(tests={}, allowed=[{**listed, "changes": True}])
    assert report({"m.py": changes}, results, other, goal=1.0) == 1
    assert "3 of 4 that change something are noticed: 75.0 %" in capsys.readouterr().out


def test_tests_of_a_line_come_the_quickest_first() -> None:
    known = Covered(
        lines={"slow": {1, 2}, "quick": {2}, "other": {3}}, seconds={"slow": 2.0, "quick": 0.1, "other": 0.0}
    )
    assert known.of(2) == ["quick", "slow"] and known.of(4) == []


@pytest.mark.slow
def test_the_table_names_modules_and_tests_that_are_there() -> None:
    table = read_table()
    assert len(table.tests) >= 16
    for module, tests in table.tests.items():
        assert len(found((ROOT / module).read_text())) >= 10, module
        assert tests and all((ROOT / test.split("::")[0]).is_file() for test in tests), module


def test_what_may_survive_has_its_reason_and_is_reported_once_it_is_gone() -> None:
    for one in read_table().allowed:
        assert one.keys() <= {"module", "line", "becomes", "reason", "changes"} and one["reason"]
        assert (ROOT / one["module"]).is_file()
    entry = {"module": "m.py", "line": "g(x, key=flag)", "reason": "key is the default"}
    gone = [{**entry, "line": "g(y)"}, {**entry, "becomes": "g(y)"}]
    assert Table(tests={}, allowed=[entry, *gone]).gone({"m.py": found(CODE)}) == gone
    assert Table(tests={}, allowed=gone).gone({"n.py": []}) == [], "of a module that was not asked for"


def test_a_change_is_shown_with_its_place() -> None:
    change = next(c for c in found(CODE) if c.becomes == "g(x)")
    assert shown(change) == "m.py:6\n    - g(x, key=flag)\n    + g(x)"
