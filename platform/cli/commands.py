"""What each command of `main.py` does: a few lines that call the platform and shape the answer.

Every import of ours is inside its function, because most of them bring torch, Ray or MLflow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretovid.platform.console.printable import printable
from paretovid.platform.console.shell import at_home, typed
from paretovid.platform.console.tables import _cell, format_table
from paretovid.trainables.documents import JsonObject

_CLASSES_OF_HEADS = 12  # as the built-in set has

_SAME_COMMAND = "What was finished is kept: the same command resumes."


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a command prints on stdout."""

    text: str
    """For people."""
    document: Any = None
    """The same as plain data, for `--json`."""
    exit_status: int = 0


def data_make(args: argparse.Namespace) -> Answer:
    """`paretovid data make`."""
    from paretovid.platform.config.load import load_sweep_config
    from paretovid.platform.config.resolve import resolve_data
    from paretovid.platform.console.progress import Progress
    from paretovid.platform.execution.stopping import StopSwitch, ended_in_order
    from paretovid.platform.preparation import datasets

    progress = Progress(1)
    config = load_sweep_config(args.overrides)
    with ended_in_order(StopSwitch(), _SAME_COMMAND, progress.say):
        dataset = datasets.make_data(config, resolve_data(config), progress)
    return Answer(text=f"{len(dataset.records)} videos of {len(dataset.classes)} classes in {dataset.root}")


def data_upload(args: argparse.Namespace) -> Answer:
    """`paretovid data upload`."""
    from paretovid.platform.preparation import datasets
    from paretovid.platform.storage.home import open_home

    dataset = datasets.upload_data(open_home(args.home), Path(args.folder))
    follow = typed("paretovid", "sweep", "data=folder", f"data.name={dataset.name}") + at_home(args.home)
    return Answer(text=f"{len(dataset.records)} videos of {dataset.name} are in the home. Next: {follow}")


def extract(args: argparse.Namespace) -> Answer:
    """`paretovid extract`."""
    from paretovid.platform.config.load import load_sweep_config
    from paretovid.platform.console.progress import Progress
    from paretovid.platform.execution.stopping import StopSwitch, ended_in_order
    from paretovid.platform.preparation import prepare as pipeline

    progress = Progress(3)
    config = load_sweep_config(args.overrides)
    with ended_in_order(StopSwitch(), _SAME_COMMAND, progress.say):
        folders: Mapping[str, Path] = pipeline.extract(config, progress)
    rows = [(source, str(folder)) for source, folder in folders.items()]
    return Answer(text=format_table(("source", "features"), rows))


def sweep(args: argparse.Namespace) -> Answer:
    """`paretovid sweep`."""
    from paretovid.platform.config.load import load_sweep_config
    from paretovid.platform.console.progress import Progress
    from paretovid.platform.sweeps import sweep as sweeping

    config = load_sweep_config(args.overrides)
    if args.dry_run:
        return Answer(text=str(sweeping.plan_sweep(config)))
    progress = Progress(6 if config.search.seeds else 5)
    return Answer(text=str(sweeping.run_sweep(config, progress, take_over=args.take_over)))


def resume(args: argparse.Namespace) -> Answer:
    """`paretovid resume`."""
    from paretovid.platform.console.progress import Progress
    from paretovid.platform.sweeps import sweep as sweeping

    report = sweeping.resume_sweep(
        args.home, args.sweep, args.overrides, Progress(5), take_over=args.take_over
    )
    return Answer(text=str(report))


def extend(args: argparse.Namespace) -> Answer:
    """`paretovid extend`."""
    from paretovid.platform.console.progress import Progress
    from paretovid.platform.sweeps import sweep as sweeping

    report = sweeping.extend_sweep(
        args.home, args.sweep, args.more, args.overrides, Progress(5), take_over=args.take_over
    )
    return Answer(text=str(report))


def confirm(args: argparse.Namespace) -> Answer:
    """`paretovid confirm`."""
    from paretovid.platform.console.progress import Progress
    from paretovid.platform.sweeps import sweep as sweeping

    report = sweeping.confirm_sweep(
        args.home, args.sweep, args.points, args.seeds, args.overrides, Progress(5), take_over=args.take_over
    )
    return Answer(text=str(report), document=report.front.to_json())


def replay(args: argparse.Namespace) -> Answer:
    """`paretovid replay`."""
    from paretovid.platform.console.progress import Progress
    from paretovid.platform.sweeps import sweep as sweeping

    sent = sweeping.replay_sweep(args.home, args.sweep, args.uri, Progress(1), whole=args.whole)
    return Answer(text=f"MLflow was sent {sent} events." if sent else "MLflow knows everything already.")


def sweeps(args: argparse.Namespace) -> Answer:
    """`paretovid sweeps`."""
    from paretovid.platform.storage.home import open_home
    from paretovid.platform.sweeps.status import list_sweeps, status_of, status_text, watch

    home = open_home(args.home, is_there=args.sweep is not None, to_read=True)
    if args.watch and not args.json:
        for text in watch(home, args.sweep):
            print(printable(text, keep="\n"), flush=True)
    if args.sweep is not None:
        status = status_of(home, args.sweep)
        return Answer(text=status_text(status), document=status.to_json())
    found = [listing.to_json() for listing in list_sweeps(home)]
    columns = (
        "name",
        "method",
        "data",
        "state",
        "trials",
        "asked",
        "stopped",
        "failed",
        "hypervolume",
        "created",
    )
    rows = [[_cell(entry.get(column)) for column in columns] for entry in found]
    none_yet = f"No sweeps yet in {home.url or home.root}. Start one: paretovid sweep"
    text = format_table(columns, rows) if rows else none_yet
    return Answer(text=text, document={"sweeps": found})


def front(args: argparse.Namespace) -> Answer:
    """`paretovid front`."""
    from paretovid.platform.fronts import report
    from paretovid.platform.fronts.build import read_front
    from paretovid.platform.storage.home import open_home
    from paretovid.trainables.errors import UsageError

    home = open_home(args.home, is_there=True, to_read=True)
    found = read_front(
        [home.sweep(name) for name in args.sweeps],
        split=args.split,
        max_gflops=args.max_gflops,
        min_map=args.min_map,
        seed=args.seed or 0,
    )
    for picture in (args.png, args.html):
        if picture and not Path(picture).absolute().parent.is_dir():
            raise UsageError(f"{picture}: there is no such folder", "Make it, or name another file.")
    if args.png:
        report.write_png(found, Path(args.png))
    if args.html:
        report.write_html(found, Path(args.html))
    return Answer(text=report.front_table(found), document=found.to_json())


def promote(args: argparse.Namespace) -> Answer:
    """`paretovid promote`."""
    from paretovid.platform.registry import promotion as registry
    from paretovid.platform.storage.home import open_home

    version = registry.promote(
        open_home(args.home, is_there=True),
        args.sweep,
        name=args.name,
        alias=args.alias,
        point=args.point,
        max_gflops=args.max_gflops,
        min_map=args.min_map,
        knee=args.knee,
    )
    return Answer(text=str(version))


def rollback(args: argparse.Namespace) -> Answer:
    """`paretovid rollback`."""
    from paretovid.platform.registry import promotion as registry
    from paretovid.platform.storage.home import open_home

    version = registry.rollback(open_home(args.home), args.name, args.alias)
    return Answer(text=str(version))


def models(args: argparse.Namespace) -> Answer:
    """`paretovid models`."""
    from paretovid.platform.registry import promotion as registry
    from paretovid.platform.storage.home import open_home

    home = open_home(args.home, to_read=True)
    found: Sequence[Mapping[str, Any]] = registry.list_models(home, args.name)
    columns = ("name", "version", "aliases", "method", "quality", "gflops", "gates", "point")
    rows = [[_cell(_model_cell(entry, column)) for column in columns] for entry in found]
    text = format_table(columns, rows) if rows else "No models yet. Register one: paretovid promote --help"
    return Answer(text=text, document={"models": list(found)})


def _model_cell(entry: Mapping[str, Any], column: str) -> Any:
    """A column of `paretovid models`; the quality comes with its name, which differs from task to task."""
    if column != "quality":
        return entry.get(column)
    return next((f"{name} {_cell(value)}" for name, value in entry.items() if name.startswith("map")), None)


def predict(args: argparse.Namespace) -> Answer:
    """`paretovid predict`. Videos that cannot be read are reported, the others continue; then the status is 1."""
    from paretovid.platform.cli.prediction_text import has_failed, prediction_text, warning_lines

    document = _predict_document(args)
    for line in warning_lines(document):
        print(line, file=sys.stderr)
    return Answer(text=prediction_text(document), document=document, exit_status=int(has_failed(document)))


def _predict_document(args: argparse.Namespace) -> JsonObject:
    from paretovid.platform.registry import prediction
    from paretovid.platform.storage.home import open_home
    from paretovid.trainables.data.limits import VideoLimitsConfig
    from paretovid.trainables.errors import UsageError

    settings = [word for word in args.videos if "=" in word and not Path(word).exists()]
    if settings:
        raise UsageError(
            f"not a video: {settings[0]!r}",
            "predict takes home=FOLDER and options; a registry on a server is named by MLFLOW_TRACKING_URI.",
        )

    answers = prediction.answers_of(
        open_home(args.home, to_read=True),
        args.model,
        args.videos,
        max_gflops=args.max_gflops,
        budget=args.budget,
        params=dict(args.set),
        on_demand=args.on_demand,
        limits={
            name: limit for name in VideoLimitsConfig.names() if (limit := getattr(args, name)) is not None
        },
    )
    if args.picture is not None:
        from paretovid.platform.registry.pictures import draw_answers

        draw_answers(answers, args.picture)
    return prediction.document_of(args.model, answers)


def flops(args: argparse.Namespace) -> Answer:
    """`paretovid flops`: measured now, on the real modules."""
    from paretovid.platform.cli import cost_tables

    if args.published:
        rows, summary = cost_tables.published_entries()
        titles = ("paper", "table", "row", "published", "computed", "difference", "note")
        table = format_table(titles, [cost_tables.published_cells(row) for row in rows])
        return Answer(text=f"{table}\n{summary}", document={"rows": rows})
    entries = cost_tables.component_entries(_CLASSES_OF_HEADS)
    columns = ("component", "input", "measured", "published", "difference", "source")
    table = format_table(columns, [cost_tables.component_cells(entry) for entry in entries])
    note = (
        "In GFLOPs per call, counted as the papers do: giga multiply-accumulates. Backbones first, those that the\n"
        "platform trains and those of the papers (without classifiers, which papers count: up to 0.003); then what\n"
        f"methods add at their default sizes on features of the small family, heads for {_CLASSES_OF_HEADS} classes."
    )
    return Answer(text=f"{table}\n{note}", document={"components": entries})


def relocate(args: argparse.Namespace) -> Answer:
    """`paretovid relocate`."""
    from paretovid.platform.storage.home import open_home
    from paretovid.platform.sweeps import relocate as relocating

    done = relocating.relocate(open_home(args.home, is_there=True), dry_run=args.dry_run)
    return Answer(text=str(done), document=done.to_document())


def doctor(args: argparse.Namespace) -> Answer:
    """`paretovid doctor`. Status 1 if something must be repaired."""
    from paretovid.platform.cli import doctor as checks

    found = checks.run_checks(args.home, args.overrides)
    if args.deep:
        from paretovid.platform.cli.deep_check import check_deeply
        from paretovid.platform.console.progress import Progress
        from paretovid.platform.storage.home import open_home

        found += check_deeply(open_home(args.home, is_there=True), Progress(1))
    failed = any(check.state == "fail" for check in found)
    return Answer(text=checks.to_text(found), document=checks.to_document(found), exit_status=int(failed))
