"""Sweeps that are killed: ours, and the stock parts (Ray Tune, OptunaSearch, MLflow callback, Tuner.restore).

    python -m benchmarks durability_kills    [--kills 20]     SIGKILL of the driver and all its Ray processes, resume
    python -m benchmarks durability_chain    [--kills 20]     the same, all of them in one sweep
    python -m benchmarks durability_stock    [--kills 4]      the same for the stock parts
    python -m benchmarks durability_worker                    three trials' processes are killed
    python -m benchmarks durability_node                      one node out of three is lost
    python -m benchmarks durability_mlflow   [--seconds 60]   the MLflow server is stopped in the middle
    python -m benchmarks durability_postgres [--seconds 20]   the study's PostgreSQL is stopped in the middle
    python -m benchmarks durability_s3       [--rate 0.1]     a home in a bucket, whose connections are cut at a rate
    python -m benchmarks durability_features                  features are unmounted: for a second, a minute, on a node
    python -m benchmarks durability_clock                     a driver's host whose clock is an hour off
    python -m benchmarks durability_node_clock                the same of the trials' host
    python -m benchmarks durability_disk                      a disk that is full at each stage
    python -m benchmarks durability_answers  [--seconds 60]   what answers in the place of the MLflow server
    python -m benchmarks durability_transaction               PostgreSQL is restarted inside of transactions
    python -m benchmarks durability_trials                    trials that fork, fill their output, are killed for memory
    python -m benchmarks durability_pace     [--trials 60]    trials per minute on 1, 2, 3 nodes

The sweeps are real and small: 12 trainings of LiteEval and a baseline on a few videos, with a checkpoint every 5 of 30
epochs; suggestions are random by number, so that the order in which trials come back changes nothing and the final
front can be compared to an undisturbed one.

There is no interval over seeds: what is claimed is that nothing is lost, not a mean. A row is a kill, or a sweep; kills
come at moments drawn from their number, so that a repeat kills at the same ones.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import durability_faults as faults
from benchmarks import durability_parts as parts
from benchmarks import durability_servers as servers
from benchmarks.harness.document import Layout
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.reported import Document
from benchmarks.harness.results import Results, Row, Rows
from benchmarks.harness.tables import Cell, Shown, table

ENDS = (
    "sweep",
    "finished in folders / study / MLflow",
    "zombies",
    "duplicates",
    "trained again after finishing",
    "starts",
    "same front",
)


def in_folder(
    part: Callable[..., Document], *names: str
) -> tuple[Callable[[argparse.Namespace], Document], Callable[[argparse.ArgumentParser], None]]:
    """What measures a part, and what adds its words, of which `names` are handed to it after the folder."""

    def measure(arguments: argparse.Namespace) -> Document:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (arguments.folder or Path(temporary)).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            return part(folder, *(getattr(arguments, name) for name in names))

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--folder",
            type=Path,
            help="kept, with prepared features and rows of faults; default: a temporary one",
        )
        for name in names:
            kind, default, about = WORDS[name]
            parser.add_argument(f"--{name}", type=kind, default=default, help=about)

    return measure, add


WORDS: dict[str, tuple[type, float, str]] = {
    "kills": (int, 20, "how many"),
    "minutes": (float, 60, "no kill is begun after that"),
    "seconds": (float, 60, "that it is away"),
    "rate": (float, 0.1, "of connections to the bucket that are cut"),
    "trials": (int, 60, "that do nothing"),
}


def states(row: Row, name: str) -> dict[str, int]:
    """State to how many, of the columns `name.STATE`."""
    return {
        column.removeprefix(f"{name}."): int(value)
        for column, value in row.items()
        if column.startswith(f"{name}.")
    }


def finished(row: Row) -> str:
    """Searched trials that have ended: with a result, in the study, in MLflow (without the baseline)."""
    in_mlflow = states(row, "mlflow")["FINISHED"] - int(row["baselines_with_result"])
    return f"{row['searched_with_result']} / {states(row, 'study')['COMPLETE']} / {in_mlflow}"


def yes(row: Row, name: str) -> str:
    """In a word; a dash where it was not looked at."""
    return {True: "yes", False: "no"}.get(bool(row[name]), "") if name in row else "-"


def end_cells(what: str, row: Row) -> list[str]:
    """The line of one sweep."""
    counts = ("zombies", "mlflow_duplicates", "finished_again", "starts")
    return [what, finished(row), *(str(row[name]) for name in counts), yes(row, "same_front")]


def end_text(what: str) -> Callable[[Results], str]:
    """What all stores of a sweep say in the end."""
    return lambda results: table(ENDS, [end_cells(what, row) for row in results["end"].rows])


def listed(values: Iterable[float]) -> str:
    """All of them, or one word for several that are equal."""
    found = [f"{value:g}" for value in values]
    return found[0] if len(set(found)) == 1 else ", ".join(found)


def chain_text(results: Results) -> str:
    """A line per kind of moment."""
    lines = []
    for (moment,), group in results["kills"].groups(("moment",)).items():
        killed = sorted(group.numbers("killed_processes"))
        lines.append(
            [
                str(moment),
                str(len(group.rows)),
                f"{killed[0]:g}" if killed[0] == killed[-1] else f"{killed[0]:g} to {killed[-1]:g}",
                listed(group.numbers("interrupted_trials")),
                listed(group.numbers("epochs_lost_most")),
            ]
        )
    title = ["moment", "kills", "processes killed", "trials interrupted", "epochs trained again, at most"]
    return table(title, lines)


def kills_text(results: Results) -> str:
    """A line per kill."""
    lines = [
        [
            str(row["after_events"]),
            *(f"{row[name]:g}" for name in ("killed_processes", "interrupted_trials", "epochs_lost_most")),
            *end_cells("", row)[1:5],
            yes(row, "same_front"),
        ]
        for row in results["kills"].rows
    ]
    title = ["killed after event", "processes killed", "trials interrupted", "epochs lost at most"]
    return table([*title, *ENDS[1:5], ENDS[-1]], lines)


def stock_text(results: Results) -> str:
    """A line per kill of the stock parts."""

    def counted(row: Row, name: str) -> str:
        return ", ".join(f"{count} {state}" for state, count in states(row, name).items())

    lines = [
        [
            f"{row['after_finished']} finished",
            str(row["finished"]),
            str(row["starts"]),
            counted(row, "study"),
            counted(row, "mlflow"),
            str(row["mlflow_duplicates"]),
            str(row["finished_again"]),
        ]
        for row in results["kills"].rows
    ]
    title = ["killed after", "finished in all", "started in all", "study", "MLflow", "duplicate runs"]
    return table([*title, ENDS[4]], lines)


def s3_text(results: Results) -> str:
    """A line per rate."""
    same = {"same_front": results.about["same_front"]}
    rows = Rows(tuple({**row, **same} for row in results["sweeps"].rows))
    return table(
        ENDS,
        [
            end_cells(f"a home in a bucket, {row['cut']} of {int(row['connections']):,} connections cut", row)
            for row in rows.rows
        ],
    )


FAULT = (
    "fault",
    "status of each command",
    "finished in folders / study / MLflow",
    "starts that failed",
    "zombies",
    "duplicates",
    "trained again after finishing",
    "same front",
)


def fault_text(*more: tuple[str, str]) -> Callable[[Results], str]:
    """A line per fault. `more`: columns, with their titles."""

    def cells(row: Row) -> list[str]:
        counts = ("failed_starts", "zombies", "mlflow_duplicates", "finished_again")
        own = [
            yes(row, name) if isinstance(row.get(name), bool) else str(row.get(name, "-")) for name, _ in more
        ]
        statuses = ", ".join(str(row["statuses"]).split())
        head = [str(row["fault"]), statuses, finished(row)]
        return [*head, *(str(row[name]) for name in counts), yes(row, "same_front"), *own]

    titles = [*FAULT, *(title for _, title in more)]
    return lambda results: table(titles, [cells(row) for row in results["faults"].rows])


def faulty(
    name: str, about: str, part: Callable[..., Document], *names: str, more: tuple[tuple[str, str], ...] = ()
) -> Measurement:
    """Sweeps that are given a fault, a row each. `more`: columns of the page, with their titles."""
    layouts = {"faults": Layout("rows.*", ("",))}
    return measurement(name, about, part, *names, layouts=layouts, shown=(fault_text(*more),))


def measurement(
    name: str, about: str, part: Callable[..., Document], *names: str, **more: Any
) -> Measurement:
    """A part of the page. `names`: of its words."""
    measure, add = in_folder(part, *names)
    return Measurement(
        name=f"durability_{name}",
        about=about,
        measure=measure,
        arguments=add,
        page="durability.md",
        is_verbatim=True,
        **more,
    )


def away(name: str, about: str, line: str, part: Callable[..., Document], *names: str) -> Measurement:
    """A sweep from which something is taken away in the middle. `line`: how the page calls it."""
    layouts = {"end": Layout("end"), "faults": Layout("faults.*", ("",))}
    return measurement(name, about, part, *names, layouts=layouts, shown=(end_text(line),))


KILLS = {"kills": Layout("rows.*", ("",))}
MEASUREMENTS = (
    measurement(
        "chain",
        "one sweep that is killed twenty times and resumed",
        parts.chain,
        "kills",
        layouts={**KILLS, "end": Layout("end")},
        shown=(chain_text, end_text("twenty kills")),
    ),
    measurement(
        "kills",
        "sweeps that are killed once each, at moments all over their life, and resumed",
        parts.kills,
        "kills",
        "minutes",
        alone=("undisturbed_seconds", "events", "moments_planned"),
        layouts=KILLS,
        shown=(kills_text,),
    ),
    measurement(
        "stock",
        "the same sweep by Ray Tune, OptunaSearch and Ray's MLflow callback, killed and restored",
        parts.stock,
        "kills",
        layouts=KILLS,
        shown=(stock_text,),
    ),
    away(
        "worker",
        "a sweep of which three trials' processes are killed",
        "three trials' processes, SIGKILL while they train",
        parts.worker,
    ),
    away(
        "node",
        "a sweep that loses one node of three",
        "a node out of three, with a trial on it",
        parts.node,
    ),
    away(
        "mlflow",
        "a sweep whose MLflow server is away for a while",
        "the MLflow server, for 60 s",
        parts.mlflow_away,
        "seconds",
    ),
    away(
        "postgres",
        "a sweep whose study's PostgreSQL is away for a while",
        "the study's PostgreSQL, for 20 s",
        parts.postgres_away,
        "seconds",
    ),
    measurement(
        "s3",
        "a sweep in a bucket whose connections are cut",
        parts.s3_errors,
        "rate",
        alone=("same_front",),
        layouts={"sweeps": Layout("rows.*", ("",))},
        shown=(s3_text,),
    ),
    faulty(
        "features",
        "sweeps whose features are unmounted for a while, everywhere or on one node",
        faults.features,
        more=(("seconds_away", "seconds away"),),
    ),
    faulty(
        "clock",
        "sweeps whose driver is on a host with a clock an hour ahead or behind",
        faults.clock,
        more=(("refused_while_it_lived", "refused while it lived"), ("seconds_watched", "seconds watched")),
    ),
    faulty(
        "node_clock",
        "sweeps whose trials are on a host with a clock an hour ahead or behind",
        faults.node_clock,
        more=(("trials_of_hours", "hours off, by heartbeats"),),
    ),
    faulty(
        "disk",
        "sweeps whose disk is full in the middle of each stage",
        faults.disk,
        more=(
            ("says_so", "says so"),
            ("tracebacks", "tracebacks"),
            ("partial_left", "half written and left"),
            ("versions", "versions promoted"),
        ),
    ),
    faulty(
        "answers",
        "sweeps in the place of whose MLflow server something else answers",
        servers.mlflow_answers,
        "seconds",
        more=(("events_left_for_replay", "left for `replay`"), ("same_artifacts", "same artifacts")),
    ),
    faulty(
        "transaction",
        "sweeps whose PostgreSQL is restarted inside of transactions of the study",
        servers.transaction,
        more=(("restarts", "restarts"),),
    ),
    faulty(
        "trials",
        "sweeps of which trials fork, fill their standard output, or are killed for memory",
        servers.trials,
        more=(("killed_by_the_kernel", "killed by the kernel"), ("children_left", "children left")),
    ),
    measurement(
        "pace",
        "trials per minute of the platform alone, on simulated nodes",
        parts.pace,
        "trials",
        layouts={"nodes": Layout("rows.*", ("",))},
        shown=(
            Shown(
                "nodes",
                "nodes",
                ("nodes",),
                (Cell("trials_per_minute", "trials per minute", digits=0, only_mean=True),),
            ),
        ),
    ),
)
