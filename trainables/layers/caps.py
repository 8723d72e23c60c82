"""What a cap on a video's cost means: the same for every method that reads a video step by step.

A **read** is what cannot be divided: the backbones of one step's source with all that the method has to compute on them
(projection, cell, next gate). `max_gflops` bounds what a video costs, the answer's own cost held in reserve. What
happens at the first read that would take a video past it says `cap_rule`:

* `stop` (default): the video is answered right before that read. Until then the run is the run without a cap, so
  one recorded run answers every cap, and every trial measures a curve of them (`caps` of a configuration, else caps
  that are placed by what they cost: `layers/placing/lines.py`).
* `cheap`: the read is refused, and the video continues with what still fits. Only methods that have something cheaper
  to continue with know it (`KNOBS_WITH_CHEAP`). A refusal changes what the method sees next, so each cap needs a run of
  its own: a trial measures the curve of `cheap` at its default setting only (`cheap_settings`). A
  method's file may name both knobs for a study to search (`search.inference_knobs=study`).

A cap below the cheapest answer is an error that names what that costs. `Outcome.stopped_by` says why reading ended.

Methods that pay for all that they look at in one go have no such knobs; `Method.no_cap` says why.

B videos, U reads in the order in which they are made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, final

import torch
from torch import Tensor

from paretovid.trainables.errors import UsageError, unknown_name
from paretovid.trainables.method import Method, check_distinct
from paretovid.trainables.outcome import InferenceKnob, Outcome, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Range

STOPPED_BY = ("end", "method", "cap")
END, METHOD, CAP = range(3)
"""Values of `Outcome.stopped_by`. `end`: nothing was left to read, at the video's end or after the last of the frames
that the setting allows. `method`: the method saw enough before that. `cap`: at least one read was refused."""

STOP, CHEAP = "stop", "cheap"
DEFAULT_CAPS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Caps that a trial evaluates, in units of what one step with every source costs, the answer not counted."""

MAX_GFLOPS = InferenceKnob(
    name="max_gflops",
    default=0,
    low=0,
    high=1e9,
    description="no video costs more than this many GFLOPs, cap_rule says how; 0: no cap",
)
_STOP_ONLY = InferenceKnob(
    name="cap_rule",
    default=STOP,
    words=(STOP,),
    description="under max_gflops a video is answered right before the first read that would pass the cap; this "
    "method has no cheaper read to continue with, so there is no `cheap`",
)
_STOP_OR_CHEAP = InferenceKnob(
    name="cap_rule",
    default=STOP,
    words=(STOP, CHEAP),
    description="under max_gflops, at the first read that would pass the cap. stop: the video is answered; cheap: "
    "the read is left out, and the video continues with what still fits",
)
KNOBS = (MAX_GFLOPS, _STOP_ONLY)
"""Of a method that reads step by step."""
KNOBS_WITH_CHEAP = (MAX_GFLOPS, _STOP_OR_CHEAP)
"""Of one that can continue with cheaper reads."""
_NAMES = tuple(knob.name for knob in KNOBS)
CapUnits = Annotated[float, Range(1e-3, 1e6)]
"""A cap in units of what one step with every source costs."""


def check_caps(caps: Sequence[float] | None) -> None:
    """Raises `UsageError` for caps that cannot be evaluated; none at all is allowed, and None: they are placed."""
    if caps:
        check_distinct("caps", caps)


def has_cap(method: type[Method] | Method) -> bool:
    """Whether a method knows `max_gflops`."""
    return any(knob.name == MAX_GFLOPS.name for knob in method.inference_knobs)


def check_known(method: type[Method] | Method, names: Sequence[str]) -> None:
    """Raises `UsageError` that says why if one of the names is a cap's, and the method cannot have one."""
    asked = [name for name in names if name in _NAMES]
    if asked and not has_cap(method):
        raise UsageError(f"{method.name} has no {asked[0]}: {method.no_cap}", _instead(method))


def _instead(method: type[Method] | Method) -> str:
    knobs = ", ".join(knob.name for knob in method.inference_knobs)
    return f"Its own knobs bound what it costs: {knobs}." if knobs else "It always costs the same."


def complete(setting: Setting) -> dict[str, float | str]:
    """The setting with its rule spelled out if it has a cap, and without one if it has not."""
    if not setting.get(MAX_GFLOPS.name):
        return {name: value for name, value in setting.items() if name != _STOP_ONLY.name}
    return {_STOP_ONLY.name: STOP, **setting}


def within(macs: Tensor, max_gflops: float) -> Tensor:
    """Whether costs `[...]` in multiply-accumulates are at most a cap in GFLOPs: bool, in the same shape."""
    # As `CostTable.gflops` computes it, in float64: against a number PyTorch would compare integers in float32.
    return macs.to(torch.float64) / 1e9 <= max_gflops


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Cap:
    """A setting's cap. Costs are in multiply-accumulates, with that of the answer."""

    max_gflops: float
    """0: none."""
    rule: str

    @classmethod
    def of(cls, setting: Setting, method: type[Method] | Method) -> Cap:
        """Raises `UsageError` for a rule that the method does not know."""
        rule = str(setting.get(_STOP_ONLY.name, STOP))
        knob = next(k for k in method.inference_knobs if k.name == _STOP_ONLY.name)
        if rule not in knob.words:
            raise UsageError(f"cap_rule of {method.name} cannot be {rule!r}", f"Give {knob.allowed}")
        return cls(max_gflops=float(setting.get(MAX_GFLOPS.name, 0)), rule=rule)

    @property
    def is_set(self) -> bool:
        """False: nothing is ever refused."""
        return self.max_gflops > 0

    @property
    def stops(self) -> bool:
        """Whether the first refusal ends a video."""
        return self.is_set and self.rule == STOP

    def fits(self, macs: Tensor) -> Tensor:
        """Whether each cost `[...]` in multiply-accumulates is within the cap: bool, in the same shape."""
        return within(macs, self.max_gflops) if self.is_set else torch.ones_like(macs, dtype=torch.bool)

    def check(self, cheapest: int, read: str) -> None:
        """Raises `UsageError` if the cap does not pay for the cheapest answer, which takes one `read`."""
        if self.is_set and cheapest / 1e9 > self.max_gflops:
            raise UsageError(
                f"max_gflops={self.max_gflops:g} does not pay for one {read} read",
                f"The cheapest answer costs {_rounded_up(cheapest / 1e9):.3g} GFLOPs; raise the cap.",
            )


def _rounded_up(gflops: float) -> float:
    # To three digits, so that the number that an error names is enough.
    unit = 10.0 ** (math.floor(math.log10(gflops)) - 2)
    return math.ceil(gflops / unit) * unit


# One recorded run answers every cap that stops


def record(spent: Tensor, *, cheapest: int, step: int) -> dict[str, Tensor]:
    """What a run leaves in its trace for `points_under_caps`.

    Arguments:
        spent: `[B, U]` int64: what a video that ended after a read would have cost. A read that was not made has the
            value of the one before.
        cheapest: what the cheapest answer costs, of whatever video.
        step: what one step with every source costs, the answer not counted.
    """
    return {
        "cap/spent": spent,
        "cap/cheapest": torch.tensor(cheapest),
        "cap/step": torch.tensor(step),
    }


def cap_grid(outcome: Outcome, caps: Sequence[float]) -> list[float]:
    """Caps in GFLOPs from caps in steps. Those that do not pay for an answer are left out; costs alone decide that,
    so it is the same for every batch.
    """
    step, cheapest = (float(outcome.trace[f"cap/{name}"]) / 1e9 for name in ("step", "cheapest"))
    # Rounded, as these are the values that users read and type.
    limits = [float(f"{cap * step:.3g}") for cap in caps]
    return [limit for limit in dict.fromkeys(limits) if limit >= cheapest]


def capped(setting: Setting, max_gflops: float) -> dict[str, float | str]:
    """The setting under a cap that stops."""
    return {**setting, MAX_GFLOPS.name: max_gflops, _STOP_ONLY.name: STOP}


def points_under_caps(
    outcome: Outcome, setting: Setting, caps: Sequence[float], cut: Callable[[Tensor], Outcome]
) -> list[tuple[Setting, Outcome]]:
    """What a run would have given under each cap, from one without any.

    Arguments:
        caps: in steps (`DEFAULT_CAPS`).
        cut: gives the outcome of making only some reads, `[B, U]` bool, for each video the first ones.
    """
    if "cap/spent" not in outcome.trace:
        return []
    return [(capped(setting, limit), under_cap(outcome, limit, cut)) for limit in cap_grid(outcome, caps)]


def under_cap(outcome: Outcome, max_gflops: float, cut: Callable[[Tensor], Outcome]) -> Outcome:
    """What a run would have given under a cap that stops, from one without any.

    Arguments:
        cut: as of `points_under_caps`, from `[B, U]`.
    """
    fits = within(outcome.trace["cap/spent"], max_gflops)
    return dataclasses.replace(cut(fits), stopped_by=_stopped_by_cap(outcome, ~fits.all(dim=1)))


def cheap_settings(
    method: type[Method] | Method, answered: Sequence[tuple[Setting, Outcome]]
) -> list[Setting]:
    """The caps among points of a setting, with the rule `cheap`; none of a method that does not know it."""
    if not any(CHEAP in knob.words for knob in method.inference_knobs if knob.name == _STOP_ONLY.name):
        return []
    return [{**each, _STOP_ONLY.name: CHEAP} for each, _ in answered if each.get(MAX_GFLOPS.name)]


def _stopped_by_cap(outcome: Outcome, refused: Tensor) -> Tensor:
    assert outcome.stopped_by is not None
    return torch.where(refused, CAP, outcome.stopped_by)


def stopped_by(*, refused: Tensor, is_early: Tensor) -> Tensor:
    """`[B]` int64 for an outcome, from `[B]` bools: a read was refused; something was left that could be read."""
    return torch.where(refused, CAP, torch.where(is_early, METHOD, END))


# Frames that are fixed before anything is seen, and read one after another


def spent_macs(provider: Provider) -> Tensor:
    """`[B]` int64: what each video has cost so far."""
    total = torch.zeros_like(provider.num_steps)
    for name, count in provider.calls.items():
        total = total + count * provider.costs[name].macs
    return total


@final
@dataclass(frozen=True, slots=True)
class Frames:
    """Frames in the order of reading, as far as a cap pays for them. N frames."""

    steps: Tensor
    """`[B, N]` int64: the step of each, -1: none."""
    trace: dict[str, Tensor]
    """What `frames_under_caps` needs of it; empty under a cap."""
    stopped_by: Tensor
    """`[B]`, as of an outcome."""

    @property
    def count(self) -> Tensor:
        """`[B]` int64: how many there are."""
        return (self.steps >= 0).sum(dim=1)


def frames_under_caps(
    outcome: Outcome,
    setting: Setting,
    caps: Sequence[float],
    *,
    before: Tensor,
    answer: Callable[[Tensor], Tensor],
) -> list[tuple[Setting, Outcome]]:
    """What reading `Frames` would have given under each cap, from an outcome that keeps their trace.

    Arguments:
        before: `[B, T]` int64, the decisions before the first frame.
        answer: `[B]`, how many frames were read, at least 1, to scores `[B, C]`.
    """
    if "frames/steps" not in outcome.trace:
        return []
    steps = outcome.trace["frames/steps"]
    each = {n.removeprefix("frames/calls/"): v for n, v in outcome.trace.items() if "frames/calls/" in n}

    def cut(fits: Tensor) -> Outcome:
        dropped = ~fits & (steps >= 0)
        decisions = outcome.decisions.clone()
        rows, places = torch.nonzero(dropped, as_tuple=True)
        decisions[rows, steps[rows, places]] = before[rows, steps[rows, places]]
        calls = {
            name: count - (each[name] * dropped).sum(dim=1) if name in each else count
            for name, count in outcome.calls.items()
        }
        count = (fits & (steps >= 0)).sum(dim=1)
        return Outcome(scores=answer(count), calls=calls, decisions=decisions)

    return points_under_caps(outcome, setting, caps, cut)


def affordable_frames(
    provider: Provider,
    cap: Cap,
    steps: Sequence[Tensor],
    *,
    sources: Sequence[str],
    own: Sequence[str],
    answer: str | None = None,
    remembered: Mapping[str, Tensor] | None = None,
    before: int = 0,
) -> Frames:
    """The frames that a video is read at under a cap; what it spent already counts.

    Arguments:
        steps: N times `[B]`, -1 where a short video has none (at the end).
        sources: read at every frame, the most expensive first.
        own: components of the method that are called once a frame.
        answer: the component that answers, called once.
        remembered: source to `[B, M]`, steps that were paid for already.
        before: the most that any video has to spend before its first frame.

    Raises `UsageError` if the cap does not pay for `before`, one frame and the answer.
    """
    index = torch.stack(list(steps), dim=1)
    there = index >= 0
    calls = {}
    for source in sources:
        known = (remembered or {}).get(source)
        is_new = there if known is None else there & ~(index[..., None] == known[:, None]).any(dim=-1)
        calls[provider.components[source]] = is_new.long()
    calls |= {name: there.long() for name in own}
    reserve = 0 if answer is None else provider.costs[answer].macs
    frame = sum(provider.costs[name].macs for name in calls)
    cap.check(before + frame + reserve, sources[0])
    each = torch.stack([count * provider.costs[name].macs for name, count in calls.items()]).sum(dim=0)
    spent = spent_macs(provider)[:, None] + each.cumsum(dim=1) + reserve
    fits = cap.fits(spent)
    refused = ~fits.all(dim=1)
    trace: dict[str, Tensor] = {}
    if not cap.is_set:
        trace = {"frames/steps": index, **{f"frames/calls/{name}": count for name, count in calls.items()}}
        trace |= record(spent, cheapest=before + frame + reserve, step=frame)
    by = stopped_by(refused=refused, is_early=torch.zeros_like(refused))
    return Frames(torch.where(fits, index, -1), trace, by)


# What a user reads


def no_cap_error(parameter: str, why: str | None, known: Mapping[str, Any]) -> UsageError:
    """For a parameter that a model has not; of a cap it says why.

    Arguments:
        why: `Method.no_cap`; None if the model was made before there was one.
    """
    if parameter not in _NAMES:
        return unknown_name("parameter of this model", parameter, known)
    names = ", ".join(known) or "(none)"
    if MAX_GFLOPS.name in known:
        return UsageError(
            f"this version of the model has no {parameter}",
            f"It was promoted before there was one, and keeps what max_gflops meant then. Parameters: {names}.",
        )
    if why is None:
        return UsageError(
            f"this version of the model has no {parameter}",
            f"It was promoted before its method could be capped, or its method cannot be. Parameters: {names}.",
        )
    return UsageError(f"this model has no {parameter}: {why}", f"Parameters: {names}.")
