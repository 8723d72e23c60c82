"""The pages say what the stored results say."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.harness.reported import Reported
from benchmarks.harness.results import MAX_BYTES, Results, read_results
from benchmarks.harness.run import HERE, RESULTS, benchmarks, measurements

BENCHMARKS: dict[str, Reported] = {**benchmarks(), **measurements()}
NOT_STORED = {
    "model_selection_seen",
    "model_selection_few",
    "lite_eval_caps",
    "gpu",
    "overhead",
    "realised_saving",
    "durability_node_clock",
    "durability_answers",
}
"""Declared and not measured since results are kept; their pages say so. May only shrink."""
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


@pytest.mark.parametrize("benchmark", STORED, ids=lambda each: each.name)
def test_stored_results_are_those_that_are_declared(benchmark: Reported) -> None:
    results = stored(benchmark)
    assert set(results.tables) <= {*benchmark.layouts, "points"}
    assert set(results.about) <= {*benchmark.common, *benchmark.alone}
    # What was converted from the files of older scripts says only when it was measured.
    assert results.about.get("code_version") or results.about["date"] <= "2026-11-21"
    assert benchmark.text(results)


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
    line = "| over 10 views, natural settings only |"
    assert any("not declared" in each for each in first.differences(page.replace(line, "| other |"), results))
