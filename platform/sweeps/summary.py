"""What `paretovid sweep` prints: the plan before (`--dry-run`), and the front with what to type next after."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from paretovid.platform.config.load import ends
from paretovid.platform.config.resolve import SweepPlan
from paretovid.platform.console.shell import at_home, typed
from paretovid.platform.execution.launcher import LaunchSummary
from paretovid.platform.fronts.front import Front, rounded_up
from paretovid.platform.fronts.report import front_table
from paretovid.platform.preparation.estimate import data_size, estimate
from paretovid.platform.records.front_files import PAGE, PICTURE
from paretovid.platform.records.trial import knob_text
from paretovid.search_spaces.schema import LEAST_OTHERS
from paretovid.trainables.backbones.catalog import measure_component
from paretovid.trainables.training.config import rung_epoch

_CLASSES_SHOWN = 12  # of what classifies, in a plan over videos of which nothing is known yet
_ANCHORS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What a sweep would do, as text (`--dry-run`)."""

    name: str
    plan: SweepPlan
    state: str | None
    """Of the sweep of this name, if there is one."""

    def __str__(self) -> str:
        config = self.plan.config
        search, knobs = config.search, self.plan.knobs
        lines = [f"sweep {self.name} ({'there already: ' + self.state if self.state else 'new'})", ""]
        lines.append(f"{_trainings(self.plan)}, sampler {search.sampler}:")
        for name, knob in knobs.items():
            low, high = ends(knob)
            scale = " (log)" if knob.log else ""
            span = f"{knob_text(low)} to {knob_text(high)}{scale}"
            if knob.choices:
                span = ", ".join(knob_text(choice) for choice in knob.choices)
            lines.append(f"  {name:<12} {span}, cheapest: {knob.cheapest}. {knob.description}")
        lines += _first(self.plan)
        if search.seeds:
            lines.append(f"then each training behind the front again with {search.seeds} other seeds")
        lines.append(f"{len(self.plan.baselines)} baselines beside them: {', '.join(self.plan.baselines)}")
        lines += ["", "cost of one read, in GFLOPs (multiply-accumulates):"]
        size, costs = data_size(self.plan.preparation), {}
        classes = _CLASSES_SHOWN if size is None else size.classes
        for source, component in self.plan.preparation.backbones.components.items():
            cost = costs[source] = measure_component(component, classes)
            lines.append(f"  {source:<10} {component:<32} {cost.gmacs:.6f}  at {cost.input}")
        lines += ["", *estimate(self.plan, size, costs)]
        if search.stopping == "curve":
            epochs, shares = self.plan.search_training({}).epochs, sorted(search.rungs)
            rungs = "epoch " + ", ".join(str(rung_epoch(share, epochs)) for share in shares) + f" of {epochs}"
            if self.plan.epochs_knob is not None:  # lengths differ
                rungs = ", ".join(f"{100 * share:g} %" for share in shares) + " of its epochs"
            lines.append(
                f"at {rungs} only those go on whose curve is in the upper {100 * search.keep:g} % of "
                f"what was measured there; the first {LEAST_OTHERS} and the anchors go on in any case"
            )
        if search.max_gflops:
            lines.append(f"points above {search.max_gflops:g} GFLOPs per video are not worth finding")
        lines += ["", "what it trains, extracts and measures is kept; nothing was started (--dry-run)"]
        return "\n".join(lines)


def _trainings(plan: SweepPlan) -> str:
    """How many trainings of the method, and how long they are."""
    method = plan.config.method.name
    if plan.epochs_knob is not None:
        return f"trainings of {method} for {plan.epochs} epochs in all, at most {plan.trainings}"
    return f"{plan.trainings} trainings of {method} for {plan.search_training({}).epochs} epochs each"


def _first(plan: SweepPlan) -> list[str]:
    """What is tried before the sampler has a say."""
    anchors = "the two anchors (all knobs most expensive, all cheapest)"
    is_long = plan.config.search.plan == "long"
    count = plan.trainings if is_long else plan.trainings - _ANCHORS
    published = [f"  {point}" for point in plan.config.method.published[: max(0, count)]]
    if not published:
        return [f"first {anchors}"]
    if is_long:
        return ["first the published settings, then the anchors:", *published]
    return [f"first {anchors}, then the published settings:", *published]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """What a finished sweep shows."""

    name: str
    folder: Path
    front: Front
    summary: LaunchSummary | None
    tracking_uri: str
    given_uri: str | None
    home: str | None
    """As it was given, for the commands that come next."""
    example_videos: tuple[Path | str, ...]

    def __str__(self) -> str:
        lines = [front_table(self.front), ""]
        if self.summary is not None and self.summary.failed:
            trial, reason = next(iter(self.summary.reasons.items()))
            lines += [f"{self.summary.failed} trials failed, for example {trial}: {reason}", ""]
        if self.summary is not None and self.summary.is_out_of_time:
            lines += ["search.hours is over; the same command resumes with the trials that are left", ""]
        knee = next(p for p in self.front.points if (p.trial.sweep, p.id) == self.front.knee_id)
        limit = rounded_up(knee.record.most_gflops)
        at = at_home(self.home)
        # The registry of a server is found by its address; under home it needs none.
        where = "" if self.given_uri is None else f"MLFLOW_TRACKING_URI={typed(self.given_uri)} "
        program, predict = typed_command("paretovid"), ("predict", "models:/digits@champion")
        promote = ("promote", self.name, "--max-gflops", limit, "--as", "digits", "--alias", "champion")
        lines += [
            f"picture   {self.folder / PICTURE}",
            f"page      {self.folder / PAGE}",
            f"tracking  {typed(typed_command('mlflow'), 'ui', '--backend-store-uri', self.tracking_uri)}",
            "",
            "next:",
            f"  {typed(program, *promote)}{at}",
            f"  {where}{typed(program, *predict, *self.example_videos)}{at}",
        ]
        return "\n".join(lines)


def typed_command(name: str) -> str:
    """The command as the user can type it: `make sweep` runs it from an environment that is not activated."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) or not beside.exists() else str(shortened(beside))


def shortened(path: Path | str) -> Path | str:
    """Relative to where the user is, if it is below; of a URL, itself."""
    try:
        short = path.relative_to(Path.cwd()) if isinstance(path, Path) else path
    except ValueError:
        return path
    return f"./{short}" if str(short).startswith("-") else short  # which would be an option
