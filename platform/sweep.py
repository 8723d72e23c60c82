"""`paretovid sweep`: from a configuration to a front, with everything on the way made or reused.

The truth about a sweep lies in its folder (`sweep.json`, `trials/*/result.json`) and in its study; the driver
only connects them. The same command with the same configuration finds the sweep again: it goes on if it was
interrupted, and shows its front if it is finished.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paretovid.platform.config import (
    check_method,
    ends,
    model_with_knobs,
    searched_knobs,
    to_record,
)
from paretovid.platform.front import Front, read_front, rounded_up
from paretovid.platform.home import Home, open_home
from paretovid.platform.launch import LaunchSummary, TrialResources, alone, launch_trials
from paretovid.platform.mlflow_store import open_store, store_uri
from paretovid.platform.pipeline import Prepared, check_settings, cluster_of, prepare
from paretovid.platform.progress import Progress, Stage
from paretovid.platform.report import front_table, write_html, write_png
from paretovid.platform.results import knob_text, read_sweep, read_trial
from paretovid.platform.searcher import FixedTrial, Hooks
from paretovid.platform.study import ParetoStudy, Suggestion
from paretovid.platform.tracking import Tracker
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.components import family, measure_component
from paretovid.trainables.data.dataset import load_dataset, write_json
from paretovid.trainables.errors import ParetovidError, UsageError
from paretovid.trainables.methods import method_class, method_config
from paretovid.trainables.provenance import code_version
from paretovid.trainables.trial import TrainingConfig, TrialConfig, run_trial
from paretovid.trainables.typed_config import typed_config

TRIALS_PER_TRACKING_BATCH = 4
PICTURE, PAGE, TABLE, DOCUMENT = "front.png", "front.html", "front.txt", "front.json"

_WHERE_ONLY = ("home", "name", "cluster", "tracking")
"""Sections that say where a sweep runs and is kept, not what it is."""
_HOW_ONLY = ("concurrent", "hours", "max_failures")
"""Settings of `search` that may differ when a sweep goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a sweep would do."""

    name: str
    config: SweepConfig
    baselines: int
    state: str | None
    """Of the sweep of this name, if there is one."""

    def __str__(self) -> str:
        search, knobs = self.config.search, searched_knobs(self.config)
        lines = [f"sweep {self.name} ({'there already: ' + self.state if self.state else 'new'})", ""]
        lines.append(f"{search.trials} trainings of {self.config.method.name}, sampler {search.sampler}:")
        for name, knob in knobs.items():
            low, high = ends(knob)
            scale = " (log)" if knob.log else ""
            span = f"{knob_text(low)} to {knob_text(high)}{scale}"
            if knob.choices:
                span = ", ".join(knob_text(choice) for choice in knob.choices)
            lines.append(f"  {name:<12} {span}, cheapest: {knob.cheapest}. {knob.description}")
        lines.append("first the two anchors (all knobs dearest, all cheapest), then the published settings:")
        lines += [f"  {point}" for point in self.config.method.published]
        lines.append(
            f"{self.baselines} baselines beside them: {', '.join(b.name for b in self.config.baselines)}"
        )
        lines += ["", "cost of one look, in GFLOPs (multiply-accumulates):"]
        for source, component in family(self.config.backbones.family).items():
            cost = measure_component(component)
            lines.append(f"  {source:<8} {component:<32} {cost.gmacs:.6f}  at {cost.input}")
        if search.max_gflops:
            lines.append(f"points above {search.max_gflops:g} GFLOPs per video are not worth finding")
        lines += ["", "what it trains, extracts and measures is kept; nothing was started (--dry-run)"]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """What a finished sweep shows."""

    name: str
    folder: Path
    front: Front
    summary: LaunchSummary | None
    tracking_uri: str
    stated_uri: str | None
    home: str | None
    """As it was stated, for the commands that come next."""
    example_videos: tuple[Path, ...]

    def __str__(self) -> str:
        lines = [front_table(self.front), ""]
        if self.summary is not None and self.summary.failed:
            trial, reason = next(iter(self.summary.reasons.items()))
            lines += [f"{self.summary.failed} trials failed, for example {trial}: {reason}", ""]
        if self.summary is not None and self.summary.is_out_of_time:
            lines += ["search.hours is over; the same command goes on with the trials that are left", ""]
        knee = next(p for p in self.front.points if (p.trial.sweep, p.id) == self.front.knee_id)
        limit = rounded_up(max(knee.record.val.gflops, knee.record.test.gflops))
        videos = " ".join(str(path) for path in self.example_videos)
        at = "" if self.home is None else f" home={self.home}"
        # The registry of a server is found by its address; under home it needs none.
        where = "" if self.stated_uri is None else f"MLFLOW_TRACKING_URI={self.stated_uri} "
        lines += [
            f"picture   {self.folder / PICTURE}",
            f"page      {self.folder / PAGE}",
            f"tracking  {_command('mlflow')} ui --backend-store-uri {self.tracking_uri}",
            "",
            "next:",
            f"  {_command('paretovid')} promote {self.name} --max-gflops {limit} --as digits --alias champion{at}",
            f"  {where}{_command('paretovid')} predict models:/digits@champion {videos}{at}",
        ]
        return "\n".join(lines)


def _command(name: str) -> str:
    """The command as the user can type it: `make sweep` runs it from an environment that is not activated."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) or not beside.exists() else str(_short(beside))


def plan_sweep(config: SweepConfig) -> Plan:
    """What `run_sweep` would do, after the checks that it makes. Starts nothing."""
    _check(config)
    home = open_home(config.home)
    name = _name(home, config)
    info = _read_info(home.sweep(name))
    return Plan(
        name=name, config=config, baselines=len(config.baselines), state=info["state"] if info else None
    )


def run_sweep(config: SweepConfig, progress: Progress) -> SweepReport:
    """Prepares, searches, records and shows. Five stages of progress.

    Raises `UsageError` before anything starts for a bad configuration or a name that is taken by another one,
    `ParetovidError` if no trial succeeds, `KeyboardInterrupt` after an interrupt.
    """
    _check(config)
    home = open_home(config.home)
    name = _name(home, config)
    folder = home.sweep(name)
    info = _read_info(folder)
    if info and info["state"] == "finished":
        progress.say(f"sweep {name} is finished; name=NEW starts another one with the same settings")
        if not info.get("tracked"):
            _finish(home, name, config, progress)
        return _report(home, name, None, config)
    # Before anything is written: a second driver of a running sweep must leave no trace in it.
    with alone(folder, ".driver.lock"), cluster_of(config):
        prepared = prepare(config, progress)
        _write_info(folder, _info(config, name, "running", info))
        try:
            summary = _search(config, name, prepared, progress)
        except BaseException as error:
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            reason = (str(error) or type(error).__name__).splitlines()[0]
            _write_info(folder, {**_info(config, name, state, info), "error": reason})
            _track_end(home, name, config, None, progress)
            raise
        ended = _info(config, name, "out_of_time" if summary.is_out_of_time else "finished", info)
        with progress.stage("front, pictures and tracking") as stage:
            _write_info(folder, {**ended, "state": "running", "failures": summary.reasons})
            _finish(home, name, config, progress, ended["state"])
            stage.done("wrote them")
    return _report(home, name, summary, config)


def list_sweeps(home: Home) -> list[dict[str, Any]]:
    """All sweeps under a home, oldest first, with state and hypervolume."""
    infos = [info for path in home.sweeps.glob("*/sweep.json") if (info := _read_info(path.parent))]
    listed = []
    for info in sorted(infos, key=lambda each: str(each["created"])):
        done = len(list((home.sweep(info["name"]) / "trials").glob("*/result.json")))
        keys = ("name", "method", "data", "state", "created", "hypervolume", "reference", "tracked", "error")
        listed.append({"trials": done, **{key: info.get(key) for key in keys}})
    return listed


def _check(config: SweepConfig) -> None:
    check_settings(config)
    check_method(config)
    typed_config(TrainingConfig, config.training, "training")
    known = {knob.name for knob in method_class(config.method.name).inference_knobs}
    for name in config.method.inference_knobs:
        if name not in known:
            raise UsageError(
                f"{config.method.name} has no inference knob {name!r}", f"Known: {', '.join(sorted(known))}."
            )
    available = family(config.backbones.family)
    for source in method_class(config.method.name).sources_of(
        method_config(config.method.name, config.method.model)
    ):
        if source not in available:
            raise UsageError(
                f"{config.method.name} reads the source {source!r}, which {config.backbones.family} has not",
                f"It has: {', '.join(available)}.",
            )


def _identity(config: Mapping[str, Any]) -> str:
    """What makes two sweeps the same, as text."""
    kept = {key: value for key, value in config.items() if key not in _WHERE_ONLY}
    kept["search"] = {k: v for k, v in config["search"].items() if k not in _HOW_ONLY}
    return json.dumps(kept, sort_keys=True)


def _name(home: Home, config: SweepConfig) -> str:
    """The stated name, or that of a sweep with this configuration, or a new one."""
    wanted = _identity(to_record(config))
    if config.name is not None:
        info = _read_info(home.sweep(config.name))
        if info and _identity(info["config"]) != wanted:
            differing = _differences(info["config"], to_record(config))
            raise UsageError(
                f"sweep {config.name} exists with other settings: {'; '.join(differing[:3])}",
                "Give it another name=, or the settings that it was started with.",
            )
        return config.name
    stem = f"{config.method.name}-{config.data['name']}"
    taken = {path.parent.name: _read_info(path.parent) for path in home.sweeps.glob("*/sweep.json")}
    for name, info in sorted(taken.items()):
        if info and name.startswith(stem) and _identity(info["config"]) == wanted:
            return name
    number = 1
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        where = f"{path}{key}"
        ignored = _WHERE_ONLY if not path else _HOW_ONLY if path == "search." else ()
        if key in ignored or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{where}.")
        else:
            found.append(f"{where} was {old!r}, now {new!r}")
    return found


def _read_info(folder: Path) -> dict[str, Any] | None:
    try:
        info: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    except (OSError, ValueError):
        return None
    return info


def _write_info(folder: Path, info: Mapping[str, Any]) -> None:
    write_json(folder / "sweep.json", info)


def _info(config: SweepConfig, name: str, state: str, before: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "name": name,
        "method": config.method.name,
        "data": config.data["name"],
        "created": (before or {}).get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "state": state,
        "config": to_record(config),
        "code_version": code_version(),
        "knobs": list(searched_knobs(config)),
    }


def _search(config: SweepConfig, name: str, prepared: Prepared, progress: Progress) -> LaunchSummary:
    home, search = prepared.home, config.search
    study = ParetoStudy(
        storage=home.optuna_url,
        name=name,
        knobs=searched_knobs(config),
        trials=search.trials,
        sampler=search.sampler,
        seed=config.seed,
        published=config.method.published,
        max_gflops=search.max_gflops,
        max_failures=search.max_failures,
    )
    trials = _Trials(config, name, prepared)
    with progress.stage("search", total=search.trials + len(config.baselines), unit="trials") as stage:
        driver = _Driver(config, name, home, progress, stage)
        summary = launch_trials(
            _run,
            storage=home.sweep(name),
            study=study,
            fixed=[trials.baseline(i) for i in range(len(config.baselines))],
            hooks=Hooks(
                configure=trials.searched,
                objectives_of=lambda result: result["objectives"],
                swept_of=(lambda result: result["swept"]) if search.tell_swept else None,
                on_result=driver.on_result,
                on_progress=driver.on_progress,
            ),
            resources=TrialResources(
                workers=config.cluster.workers_per_trial,
                cpus=config.cluster.cpus_per_trial,
                gpus=config.cluster.gpus_per_trial,
                memory_gigabytes=config.cluster.memory_per_trial_gigabytes,
            ),
            concurrent=search.concurrent,
            max_failures=search.max_failures,
            hours=search.hours,
        )
        if summary.is_out_of_time:
            study.fail_open("the time of search.hours was over")
        failed = f", {summary.failed} failed" if summary.failed else ""
        stage.done(f"{summary.succeeded} trials{failed}")
    return summary


class _Trials:
    """Configurations of trials, as plain data that Ray can send."""

    def __init__(self, config: SweepConfig, sweep: str, prepared: Prepared) -> None:
        self._config = config
        self._sweep = sweep
        self._prepared = prepared

    def searched(self, suggestion: Suggestion) -> dict[str, Any]:
        """A suggestion of the study."""
        method = self._config.method
        training = {n: v for n, v in suggestion.knobs.items() if n in method.training_knobs}
        setting = {n: v for n, v in suggestion.knobs.items() if n not in method.training_knobs}
        return self._trial(
            suggestion.trial_id,
            method.name,
            model_with_knobs(method, training),
            training_knobs=training,
            inference_setting=setting or None,
        )

    def baseline(self, index: int) -> FixedTrial:
        """One of the configured baselines."""
        baseline = self._config.baselines[index]
        return FixedTrial(
            trial_id=baseline.name, config=self._trial(baseline.name, baseline.method, dict(baseline.model))
        )

    def _trial(
        self,
        trial: str,
        method: str,
        model: dict[str, Any],
        *,
        training_knobs: dict[str, Any] | None = None,
        inference_setting: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        config = TrialConfig(
            sweep=self._sweep,
            trial=trial,
            method=method,
            model=model,
            training_knobs=training_knobs or {},
            inference_setting=inference_setting,
            training=typed_config(TrainingConfig, self._config.training, "training"),
            seed=self._config.seed,
            dataset=str(self._prepared.dataset.root),
            features={source: str(folder) for source, folder in self._prepared.features.items()},
            output=str(self._prepared.home.trial(self._sweep, trial)),
            accounting=self._config.accounting,
        )
        return asdict(config)


def _run(config: dict[str, Any], context: Any) -> dict[str, Any]:
    """A trial on a worker. One whose result is there already (its driver died) is not trained again."""
    trial = TrialConfig(**{**config, "training": TrainingConfig(**config["training"])})
    result = _finished(trial) or run_trial(trial, context)
    if not result:
        return {}
    natural = result["points"][0]["val"]
    return {
        "objectives": {"map": natural["map"], "gflops": natural["gflops"]},
        "swept": [
            {"setting": p["inference_knobs"], "map": p["val"]["map"], "gflops": p["val"]["gflops"]}
            for p in result["points"][1:]
        ],
        "seconds": result["seconds"],
    }


def _finished(trial: TrialConfig) -> dict[str, Any] | None:
    try:
        result: dict[str, Any] = json.loads((Path(trial.output) / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return result if result.get("digest") == trial.digest else None


class _Driver:
    """What the driver does while trials run: shows progress and tells MLflow, a few trials at a time.

    A store that does not answer costs the sweep nothing but the record there: the results are in its folder.
    """

    def __init__(self, config: SweepConfig, sweep: str, home: Home, progress: Progress, stage: Stage) -> None:
        self._progress = progress
        self._stage = stage
        self._home = home
        self._sweep = sweep
        self._waiting: list[Path] = []
        self._config = config
        self._tracker: Tracker | None = None
        self._is_untracked = False

    def on_progress(self, trial: str, progress: Mapping[str, float]) -> None:
        """Shows that a running trial goes on."""
        note = f"{trial} at epoch {progress.get('epoch', 0):.0f}/{progress.get('epochs', 0):.0f}"
        self._stage.advance(0, note=note)

    def on_result(
        self,
        trial: str,
        config: Mapping[str, Any],
        result: Mapping[str, Any] | None,
        error: str | None,
    ) -> None:
        """Counts a trial; every few of them go to MLflow in one batch."""
        if result is None:
            self._stage.advance(1, note=f"{trial} failed: {error}")
            return
        objectives = result["objectives"]
        self._stage.advance(
            1, note=f"{trial}: mAP {100 * objectives['map']:.1f} at {objectives['gflops']:.4f} GFLOPs"
        )
        self._waiting.append(self._home.trial(self._sweep, trial))
        if len(self._waiting) >= TRIALS_PER_TRACKING_BATCH:
            self._track()

    def _track(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._is_untracked:
            return
        try:
            if self._tracker is None:
                store = open_store(self._home, self._config.tracking.uri)
                self._tracker = Tracker(store, read_sweep(self._home.sweep(self._sweep)))
            self._tracker.log_trials([read_trial(folder) for folder in waiting])
        except ParetovidError as error:
            # Asked again at the end only: a store that is away answers slowly, and trials must not wait for it.
            self._is_untracked = True
            self._progress.say(f"  not tracked for now: {error.message}")


def _finish(home: Home, name: str, config: SweepConfig, progress: Progress, state: str = "finished") -> None:
    """Front, pictures, hypervolume and MLflow, all from what is on disk; the state last."""
    folder = home.sweep(name)
    front = read_front([folder])
    write_png(front, folder / PICTURE)
    write_html(front, folder / PAGE)
    (folder / TABLE).write_text(front_table(front) + "\n")
    write_json(folder / DOCUMENT, front.to_json())
    reference = {"map": front.reference.map, "gflops": front.reference.gflops}
    info = {**(_read_info(folder) or {}), "hypervolume": front.hypervolume, "reference": reference}
    _write_info(folder, {**info, "state": state, "tracked": False})
    tracked = _track_end(home, name, config, front, progress)
    _write_info(folder, {**info, "state": state, "tracked": tracked})


def _track_end(home: Home, name: str, config: SweepConfig, front: Front | None, progress: Progress) -> bool:
    """Tells MLflow how the sweep ended. False if the store did not take it: what is on disk is whole."""
    try:
        sweep = read_sweep(home.sweep(name))
        Tracker(open_store(home, config.tracking.uri), sweep).finish(sweep, front)
    except ParetovidError as error:
        progress.say(f"  not tracked: {error}")
        return False
    return True


def _report(home: Home, name: str, summary: LaunchSummary | None, config: SweepConfig) -> SweepReport:
    folder = home.sweep(name)
    dataset = load_dataset(home.data(str(config.data["name"])))
    return SweepReport(
        name=name,
        folder=folder,
        front=read_front([folder]),
        summary=summary,
        tracking_uri=store_uri(home, config.tracking.uri),
        stated_uri=config.tracking.uri,
        home=config.home,
        example_videos=tuple(_short(dataset.video_path(r)) for r in dataset.split("test")[:2]),
    )


def _short(path: Path) -> Path:
    """Relative to where the user is, if it is below."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


__all__ = ["Plan", "SweepReport", "list_sweeps", "plan_sweep", "run_sweep"]
