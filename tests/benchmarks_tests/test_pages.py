"""The pages say what the stored results say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.harness.reported import Reported
from benchmarks.harness.results import MAX_BYTES, Results, read_results
from benchmarks.harness.run import HERE, RESULTS, benchmarks, measurements

BENCHMARKS: dict[str, Reported] = {**benchmarks(), **measurements()}
NOT_STORED = {
    "model_selection_seen",
    "model_selection_few",
    "gpu",
    "overhead",
    "realised_saving",
    "durability_node_clock",
}
"""Declared and not measured since results are kept; their pages say so. May only shrink."""
NOT_COMPARED: dict[str, tuple[str, str]] = {
    "| what | measured | at 100,000 trials |": (
        "durability.md",
        "single runs, and what follows from them on paper",
    ),
    "| against | GFLOPs ours |": (
        "lite_eval.md",
        "`realised_saving` was not repeated since results are kept",
    ),
    "| per trial | trials per minute |": ("model_selection.md", "single sweeps typed by hand"),
}
"""How a table begins, to its page and why no results are kept that it could be compared with. May only shrink."""
STORED = [each for name, each in BENCHMARKS.items() if name not in NOT_STORED]


def page_of(benchmark: Reported) -> str:
    return (HERE / (benchmark.page or f"{benchmark.name}.md")).read_text(encoding="utf-8")


def stored(benchmark: Reported) -> Results:
    return read_results(RESULTS / benchmark.name)


@pytest.mark.parametrize("benchmark", STORED, ids=lambda each: each.name)
def test_page_tables_are_those_of_the_stored_results(benchmark: Reported) -> None:
    page, results = page_of(benchmark), stored(benchmark)
    for each in benchmark.page_tables:
        assert each.differences(page, results) == []
    if benchmark.is_verbatim:
        lines = page.splitlines()
        missing = [line for line in benchmark.text(results).splitlines() if line and line not in lines]
        assert missing == []


def test_every_page_has_a_table_that_is_compared() -> None:
    pages: dict[str, int] = {}
    for each in BENCHMARKS.values():
        name = each.page or f"{each.name}.md"
        pages[name] = pages.get(name, 0) + len(each.page_tables) + int(each.is_verbatim)
    assert {page for page, count in pages.items() if not count} == {"gpu.md"}, "it was never measured"


def not_compared() -> set[tuple[str, str]]:
    """Page and first line of every table of figures that no stored results are compared with."""
    found = set()
    for path in sorted(HERE.glob("*.md")):
        if path.name == "README.md":
            continue
        page = path.read_text(encoding="utf-8")
        lines = page.splitlines()
        tables = {i - 1 for i, line in enumerate(lines) if i and re.fullmatch(r"\|[-:| ]+\|", line)}
        for each in STORED:
            if (each.page or f"{each.name}.md") == path.name:
                tables -= {table.begins_at(page) for table in each.page_tables}
                text = each.text(stored(each)).splitlines() if each.is_verbatim else []
                tables -= {i for i in tables if lines[i] in text}
        found |= {(path.name, lines[i]) for i in tables}
    return found


def test_every_table_of_a_page_is_compared() -> None:
    found = {
        (page, next((each for each in NOT_COMPARED if line.startswith(each)), line))
        for page, line in not_compared()
    }
    assert found == {(page, line) for line, (page, _) in NOT_COMPARED.items()}


@pytest.mark.parametrize("benchmark", STORED, ids=lambda each: each.name)
def test_stored_results_are_those_that_are_declared(benchmark: Reported) -> None:
    results = stored(benchmark)
    assert set(results.tables) <= {*benchmark.layouts, "points"}
    assert set(results.about) <= {*benchmark.common, *benchmark.alone}
    # What was converted from the files of older scripts says only when it was measured.
    assert results.about.get("code_version") or results.about["date"] <= "2026-11-21"
    assert benchmark.text(results)


@pytest.mark.parametrize("benchmark", STORED, ids=lambda each: each.name)
def test_a_cell_is_a_number_or_words_and_no_text_of_a_program(benchmark: Reported) -> None:
    cells = [
        str(cell)
        for table in stored(benchmark).tables.values()
        for row in table.rows
        for cell in row.values()
    ]
    assert [cell for cell in cells if re.search(r"[{}\[\]]", cell)] == []


def test_only_what_was_measured_again_has_its_points() -> None:
    """The others were converted from derived rows; `benchmarks/README.md` says which. May only grow."""
    assert {each.name for each in STORED if "points" in stored(each).tables} == {
        "lite_eval_caps",
        "model_selection_localization",
        "search_points",
        "budget_dial",
    }


def test_every_folder_of_results_belongs_to_a_benchmark() -> None:
    folders = {path.name for path in RESULTS.iterdir()}
    assert folders == {each.name for each in STORED}


def test_files_of_results_are_small() -> None:
    too_large = [path.name for path in Path(RESULTS).rglob("*.*") if path.stat().st_size > MAX_BYTES]
    assert too_large == []


def test_a_page_that_says_another_figure_is_noticed() -> None:
    benchmark = BENCHMARKS["hcms"]
    page, results = page_of(benchmark), stored(benchmark)
    first = benchmark.page_tables[0]
    for right, wrong in (("99.66 [99.46, 99.87]", "99.67 [99.46, 99.87]"), ("[42.1, 47.4]", "[42.1, 47.5]")):
        assert right in page
        found = first.differences(page.replace(right, wrong), results)
        assert found and all("the page says" in each for each in found)
    assert "no table begins" in first.differences("", results)[0]
    line = "| over 10 views, default settings only |"
    assert any("not declared" in each for each in first.differences(page.replace(line, "| other |"), results))
