"""Results on disk, documents to tables, cells, and the runner on one small trial."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from benchmarks.harness import run
from benchmarks.harness.benchmark import Benchmark, Study
from benchmarks.harness.document import Layout, results_of
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.results import MAX_BYTES, Results, Row, Rows, read_results, write_results
from benchmarks.harness.tables import Cell, PageTable, Shown, interval, side_by_side
from tests.platform_tests.conftest import SMALL_DATA, copied

from paretovid.trainables.errors import DataError, UnknownNameError, UsageError


def test_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows: tuple[Row, ...] = (
        {"seed": 0, "trial": "a,b", "map": 0.1 + 0.2, "reached": True},
        {"seed": 1, "gflops": 1.0},
    )
    write_results(Results({"dataset": "x"}, {"t": Rows(rows)}), tmp_path)
    back = read_results(tmp_path)
    assert back == Results({"dataset": "x"}, {"t": Rows(rows)})
    kinds = [type(value) for value in back["t"].rows[0].values()]
    assert kinds == [int, str, float, bool] and isinstance(back["t"].rows[1]["gflops"], float)


def test_a_long_table_continues_in_further_files(tmp_path: Path) -> None:
    rows = Rows(tuple({"seed": i, "text": "x" * 1000} for i in range(450)))
    write_results(Results({}, {"t": rows}), tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.csv")}
    assert set(sizes) == {"t.csv", "t.2.csv", "t.3.csv"} and max(sizes.values()) <= MAX_BYTES
    assert read_results(tmp_path)["t"] == rows
    write_results(Results({}, {"t": Rows(rows.rows[:1])}), tmp_path)
    assert {path.name for path in tmp_path.glob("*.csv")} == {"t.csv"}


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results"):
        read_results(tmp_path)


DOCUMENT: Document = {
    "dataset": "d",
    "runs": [
        {"seed": 3, "rows": [{"k": 1, "map": 0.5, "by_class": [0.1, 0.2]}]},
        {"seed": 4, "rows": [{"k": 1, "map": 0.6, "by_class": [0.3, 0.4]}]},
    ],
    "chosen": {"best": {"name": "x", "map": [1.0, 2.0], "over": {"low": 0.5}}},
}
LAYOUTS = {
    "rows": Layout("runs.*.rows.*", ("=seed", "")),
    "classes": Layout("runs.*.rows.*.by_class.*", ("=seed", "=k", "class")),
    "chosen": Layout("chosen.*", ("choice",), unzip="seed"),
    "absent": Layout("absent.*", ("",)),
}


def test_a_document_becomes_tables() -> None:
    results = results_of(DOCUMENT, LAYOUTS, ("dataset",))
    assert results.about == {"dataset": "d"} and set(results.tables) == {"rows", "classes", "chosen"}
    assert results["rows"].rows == ({"seed": 3, "k": 1, "map": 0.5}, {"seed": 4, "k": 1, "map": 0.6})
    assert results["classes"].rows[1] == {"seed": 3, "k": 1, "class": 1, "value": 0.2}
    assert results["chosen"].rows[1] == {
        "choice": "best",
        "name": "x",
        "over.low": 0.5,
        "seed": 1,
        "map": 2.0,
    }


@pytest.mark.parametrize("table", ["rows", "classes", "chosen"])
def test_a_figure_that_no_table_holds_is_an_error(table: str) -> None:
    layouts = {name: layout for name, layout in LAYOUTS.items() if name != table}
    with pytest.raises(ValueError, match="no table holds"):
        results_of(DOCUMENT, layouts, ("dataset",))


def test_cells() -> None:
    rows = Rows(
        tuple(
            {"trial": trial, "seed": seed, "map": value, "rival": 0.1}
            for trial, values in (("a", (0.5, 0.7)), ("b", (0.4, 0.4)))
            for seed, value in enumerate(values)
        )
    )
    group = rows.where(trial="a")
    # Student's t with one degree of freedom: 12.706 times the standard error of 0.1.
    assert interval([0.5, 0.7]) == pytest.approx((0.6, 0.6 - 1.2706, 0.6 + 1.2706), abs=1e-4)
    assert Cell("map", percent=True).text(group, rows) == "60.00 [-67.06, 187.06]"
    assert Cell("map", only_mean=True, digits=1).text(group, rows) == "0.6"
    assert Cell("map", minus="rival").values(group, rows) == pytest.approx([0.4, 0.6])
    assert Cell("map", against=("trial", "b")).values(group, rows) == pytest.approx([0.1, 0.3])
    assert Cell("other").text(group, rows) == ""
    shown = Shown("trial", "t", ("trial",), (Cell("map", only_mean=True, digits=2),))
    results = Results({}, {"t": rows})
    assert shown.text(results).splitlines()[2:] == ["| a | 0.60 |", "| b | 0.40 |"]
    turned = Shown("cell", "t", ("trial",), (Cell("map", only_mean=True, digits=2),), turned=True)
    assert turned.text(results).splitlines()[::2] == ["| cell | a | b |", "| map | 0.60 | 0.40 |"]
    across = Shown("trial", "t", ("trial",), (Cell("map", only_mean=True, digits=1),), across="seed")
    assert across.text(results).splitlines()[::2][:2] == ["| trial | 0 | 1 |", "| a | 0.5 | 0.7 |"]


def test_remarks_and_emphasis_of_a_page_are_not_compared() -> None:
    results = Results({}, {"t": Rows(({"trial": "a", "map": 0.932},))})
    page = "| x | best |\n|---|---|\n| **A** | **93.2** (m, 8 clips) |\n"
    declared = PageTable("| x |", "t", {"A": {"trial": "a"}}, (Cell("map", percent=True),))
    assert declared.differences(page, results) == []
    assert declared.differences(page.replace("93.2", "93.3"), results) == [
        "A, map: the page says 93.3, the results 93.2"
    ]


def test_lines_named_by_two_columns_several_figures_a_column_and_the_second_of_two_tables() -> None:
    rows = tuple({"units": u, "walks": w, "ms": u + w, "low": u, "high": w} for u in (1, 2) for w in (3, 4))
    results = Results({}, {"t": Rows(rows)})
    head = "| units | walks | ms (range) | apart |\n|---|---|---|---|\n"
    lines = [f"| {u} | {w} | {u + w} ({u} to {w}) | |" for u in (1, 2) for w in (3, 4)]
    page = f"{head}| 9 | 9 | 9 (9 to 9) | |\n\n## Later\n\n{head}" + "\n".join(lines)
    declared = PageTable(
        "| units |",
        "t",
        {f"{u} {w}": {"units": u, "walks": w} for u in (1, 2) for w in (3, 4)},
        (tuple(Cell(name) for name in ("ms", "low", "high")), Cell("missing")),
        below="## Later",
        named_by=2,
    )
    assert declared.differences(page, results) == [] and declared.begins_at(page) == page.count("\n") - 5
    assert declared.differences(page.replace("6 (2 to 4)", "6 (2 to 5)"), results) == [
        "2 4, ms: the page says 5, the results 4"
    ]
    (wrong,) = declared.differences(page.replace("6 (2 to 4) | |", "6 (2 to 4) | 7 |"), results)
    assert wrong == "2 4, missing: no number in '7', or none in the results"


def test_values_stand_side_by_side() -> None:
    rows = Rows(tuple({"trial": t, "place": p, "map": p * 2} for t in "ab" for p in (0.5, 1.0)))
    assert side_by_side(rows, ("trial",), "place").rows == (
        {"trial": "a", "map.0.5": 1.0, "map.1": 2.0},
        {"trial": "b", "map.0.5": 1.0, "map.1": 2.0},
    )


def _measured(arguments: argparse.Namespace) -> Document:
    return {"trials": arguments.trials, "repeats": [{"seconds": 0.5 * arguments.trials}, {"seconds": 1.0}]}


TIMED = Measurement(
    name="timed",
    about="nothing",
    measure=_measured,
    arguments=lambda parser: parser.add_argument("--trials", type=int, default=1),
    alone=("trials",),
    layouts={"repeats": Layout("repeats.*", ("repeat",))},
    shown=(Shown("repeat", "repeats", ("repeat",), (Cell("seconds", only_mean=True),)),),
)


def test_a_measurement_has_words_of_its_own_and_writes_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "measurements", lambda: {"timed": TIMED})
    run.run(["timed", "--trials", "4", f"--out={tmp_path}", "--print-only"])
    assert "| 0 | 2.000 |" in capsys.readouterr().out and not list(tmp_path.iterdir())
    run.run(["timed", "--trials", "4", f"--out={tmp_path}"])
    results = read_results(tmp_path / "timed")
    assert results["repeats"].numbers("seconds") == [2.0, 1.0] and results["repeats"].rows[1]["repeat"] == 1
    assert set(results.about) == {"trials", "code_version", "date", "cores", "load"}
    run.run(["timed", "--stored", f"--out={tmp_path}"])
    assert capsys.readouterr().out.count("| 1 | 1.000 |") == 2
    with pytest.raises(SystemExit):
        run.run(["timed", "home=elsewhere"])


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="'lite_evil'"):
        run.run(["lite_evil"])


def test_stored_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run.run(["lite_eval", "--stored"])
    assert "| baseline_map | 82.71 [81.52, 83.90] |" in capsys.readouterr().out


def _figures(study: Study) -> Document:
    return {
        "runs": [
            {"seed": seed, "map": points["uniform"][0].test.quality} for seed, points in enumerate(study.runs)
        ]
    }


TINY = Benchmark(
    name="tiny",
    about="averaging alone",
    overrides=(),
    trials={"uniform": ("uniform", {})},
    document=_figures,
    layouts={"runs": Layout("runs.*", ("=seed",))},
    shown=(Shown("averaging", "runs", (), (Cell("map", percent=True),)),),
)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_measuring_writes_results_and_resumes(
    prepared_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = copied(prepared_home, tmp_path / "home")
    monkeypatch.setattr(run, "benchmarks", lambda: {"tiny": TINY})
    words = ["tiny", "--seeds", "2", "--epochs", "1", "--workers", "1", f"--out={tmp_path / 'out'}"]
    words += [*SMALL_DATA, f"home={home}"]
    run.run(words)
    results = read_results(tmp_path / "out" / "tiny")
    assert {row["seed"] for row in results["points"].rows} == {0, 1}
    first = results["points"].where(point=0, seed=1).rows[0]
    assert first["test"] == results["runs"].where(seed=1).rows[0]["map"] and float(first["test_gflops"]) > 0
    assert results.about["code_version"] and results.about["dataset"]
    with pytest.raises(UsageError, match="--resume"):
        run.run(words)
    result = home / "benchmarks" / "tiny-e1" / "uniform-s0" / "result.json"
    made = result.stat().st_mtime_ns
    run.run([*words, "--resume"])
    assert result.stat().st_mtime_ns == made and read_results(tmp_path / "out" / "tiny") == results
    assert "| averaging | map |" in capsys.readouterr().out
