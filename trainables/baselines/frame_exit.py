"""FrameExit: look at frames in an order that refines, and stop once they suffice.

A. Ghodrati, B. Ehteshami Bejnordi, A. Habibian: "FrameExit: Conditional Early Exiting for Efficient Video
Recognition", CVPR 2021.

T frames at even distances are visited from the middle outwards, each halving the gaps. What was seen is the
element-wise maximum of the frames' projected features; there is one classifier per position and, at all but the
last, a gate that says from the newest two maxima whether to stop there. A gate learns that it should where its
classifier's loss is below epsilon_t = beta * exp(t / 2): the later, the more willingly.

Departures from the paper, and why:
* The order comes from halving and not from a table for ten frames, so that it is there for any number.
* Layer norm instead of batch norm in the projection: an answer must not depend on the other videos.
* Each gate is an MLP of its own, the first included (it sees zeros as the maximum of no frame); the authors'
  code stops after the first frame by confidence instead.
* A short video's last state stands in training at the positions that it does not have. When it is run, it ends
  with its last frame, where no gate is asked.

B videos, T = `max_frames` positions, C classes, P projected features. Positions count from 0 in code and from 1
in t above.

Budget knobs: beta in training; at inference `exit_threshold`, `min_confidence` for comparison, which needs no gate but
a classifier at every position, and a cap per video (`caps.py`). Under it a video is answered by the classifier of the
last position whose frame, with the gate that is asked there, it pays for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretovid.trainables.cost import ComponentCost, measure_macs
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.caps import (
    CAP,
    END,
    KNOBS,
    METHOD,
    Cap,
    CapUnits,
    cap_grid,
    capped,
    check_caps,
    record,
)
from paretovid.trainables.layers.coarse_to_fine import FINE
from paretovid.trainables.layers.frame_classifier import mark_read
from paretovid.trainables.layers.frame_sampling import uniform_steps
from paretovid.trainables.layers.functional import probabilities, stack_steps
from paretovid.trainables.layers.placing.lines import cap_lines, quantiles, within_range
from paretovid.trainables.layers.recurrent import Projection
from paretovid.trainables.method import Method, PlacesSettings, check_listed, register
from paretovid.trainables.outcome import Batch, InferenceKnob, Line, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider
from paretovid.trainables.ranges import Positive, Range, Width, check_ranges

EXIT_THRESHOLD = InferenceKnob(
    name="exit_threshold",
    default=0.5,
    low=0.0,
    high=1.0,
    description="stop where the gate's probability of stopping is above this; 1: no gate is asked",
)
MIN_CONFIDENCE = InferenceKnob(
    name="min_confidence",
    default=0.0,
    low=0.0,
    high=1.0,
    description="stop where the largest class probability is at least this; 0: whatever it is",
)
_GATE_HIDDEN = 64
_PARTS = ("projection", "gate", "classifier")


def refining_order(count: int) -> list[int]:
    """0 to `count` - 1, each once: the middle, then the quarter points, then the eighths, and so on.

    These are the points of van der Corput's sequence (the bits of 1, 2, 3, ... mirrored at the binary point).
    """
    bits = count.bit_length()
    mirrored = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1, 2**bits))
    return list(dict.fromkeys(point * count >> bits for point in mirrored))


def exit_steps(num_steps: Tensor, max_frames: int) -> Tensor:
    """`[B, T]` int64: the steps of each video in the order of visit, -1 after the last of a short one."""
    slots = torch.stack(uniform_steps(num_steps, max_frames), dim=1)
    orders = torch.full((max_frames + 1, max_frames), -1)
    for count in range(1, max_frames + 1):
        orders[count, :count] = torch.tensor(refining_order(count))
    order = orders.to(num_steps.device)[num_steps.clamp(max=max_frames)]
    return slots.gather(1, order.clamp(min=0)).masked_fill(order < 0, -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameExitConfig:
    """Training settings of FrameExit."""

    beta: Annotated[Positive, "Higher stops earlier."] = 1e-3
    """Scale of the loss below which a gate learns to stop: higher stops earlier."""
    max_frames: Annotated[int, Range(2, 1000), "The paper: 10."] = 10
    """T."""
    projection: Width = 64
    """P."""
    exit_weight: Annotated[float, Range(0, 1e6, above=True), "The paper: 1."] = 1.0
    """Of the gates' loss."""
    thresholds: tuple[Annotated[float, EXIT_THRESHOLD.range], ...] | None = None
    """Values of `exit_threshold` to evaluate besides the default one and 1. null here and below: placed by what they
    cost on validation (`search.points`)."""
    confidences: tuple[Annotated[float, MIN_CONFIDENCE.range], ...] | None = None
    """Values of `min_confidence` to evaluate, without gates."""
    caps: tuple[CapUnits, ...] | None = None
    """Caps to evaluate at the default `exit_threshold` and at 1, in units of what one frame costs; placed: at 1."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_listed("thresholds", self.thresholds)
        check_listed("confidences", self.confidences)
        check_caps(self.caps)
        if 0 in (self.confidences or ()):
            raise UsageError(
                "confidences cannot have 0", "It means that confidence stops nobody: leave it out."
            )


@register
@final
class FrameExit(Method, PlacesSettings):
    """See the module's text."""

    name: ClassVar[str] = "frame_exit"
    Config: ClassVar[type[Any]] = FrameExitConfig
    inference_knobs = (EXIT_THRESHOLD, MIN_CONFIDENCE, *KNOBS)
    is_baseline: ClassVar[bool] = True

    @classmethod
    def sources_of(cls, config: FrameExitConfig) -> tuple[str, ...]:
        return (FINE,)

    def __init__(
        self, config: FrameExitConfig, *, widths: Mapping[str, int], num_classes: int, multi_label: bool
    ) -> None:
        super().__init__(config, widths=widths, num_classes=num_classes, multi_label=multi_label)
        self.config = config
        self.multi_label = multi_label
        self.num_classes = num_classes
        self.width = widths[FINE]
        self.project = Projection(self.width, config.projection)
        self.classifiers = nn.ModuleList(
            nn.Linear(config.projection, num_classes) for _ in range(config.max_frames)
        )
        self.gates = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * config.projection, _GATE_HIDDEN), nn.ReLU(), nn.Linear(_GATE_HIDDEN, 1)
            )
            for _ in range(config.max_frames - 1)
        )

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        index = exit_steps(batch.mask.sum(dim=1), self.config.max_frames)
        rows = torch.arange(len(index), device=index.device)[:, None]
        frames = self.project(batch.features[FINE][rows, index.clamp(min=0)])
        # Projected features are not negative: a frame that is not there, at 0, leaves the maximum as it is.
        pooled = (frames * (index >= 0)[..., None]).cummax(dim=1).values
        losses = self._losses(pooled, batch.targets)
        position = torch.arange(1, len(self.gates) + 1, device=losses.device)
        stop = losses[:, :-1].detach() < self.config.beta * torch.exp(position / 2)
        states = F.pad(pooled.detach(), (0, 0, 1, 0))
        gates = torch.stack(
            [self._gate(t, states[:, t], states[:, t + 1]) for t in range(len(self.gates))], 1
        )
        exits = F.binary_cross_entropy_with_logits(gates, stop.to(gates.dtype))
        parts = {"classification": losses.mean(), "exits": exits, "stop_share": stop.float().mean()}
        total = losses.mean() + self.config.exit_weight * exits
        return Loss(total, {name: float(value.detach()) for name, value in parts.items()})

    def _losses(self, pooled: Tensor, targets: Tensor) -> Tensor:
        """`[B, T]`: what `classification_loss` averages, at every position."""
        logits = torch.stack([head(pooled[:, t]) for t, head in enumerate(self.classifiers)], dim=1)
        targets = targets[:, None].expand_as(logits)
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=-1)
        return -(targets * torch.log_softmax(logits, dim=-1)).sum(dim=-1)

    def _gate(self, position: int, before: Tensor, state: Tensor) -> Tensor:
        """Logit of stopping, `[B]`, from the maximum `[B, P]` without and with the newest frame."""
        answer: Tensor = self.gates[position](torch.cat([before, state], dim=-1))[:, 0]
        return answer

    def _scores(self, position: int, state: Tensor) -> Tensor:
        return probabilities(self.classifiers[position](state), self.multi_label)

    def run(self, provider: Provider, setting: Setting) -> Outcome:
        index = exit_steps(provider.num_steps, self.config.max_frames)
        states = [torch.zeros(provider.batch_size, self.config.projection, device=index.device)]

        def read(position: int, active: Tensor) -> Tensor:
            frames = self.project(provider.read(FINE, index[:, position], active))
            states.append(torch.maximum(states[-1], frames * active[:, None]))
            return states[-1]

        names = (provider.components[FINE], *(f"{self.name}.{part}" for part in _PARTS))
        macs = torch.tensor([provider.costs[name].macs for name in names])
        cap = Cap.of(setting, self)
        cheapest = self._spent(macs, setting, 0, has_next=torch.ones(1, dtype=torch.bool))
        cap.check(int(cheapest), FINE)
        walk = self._walk(read, index, setting, macs)
        for component, count in self._own_calls(walk).items():
            provider.charge(component, count)
        trace = {"states": stack_steps(states[1:]), "steps": index, "macs": macs}
        if not cap.is_set:
            # Replayed walks keep their own accounts, so that no read has to be recorded.
            step = int(macs[:2].sum())
            trace |= record(index.new_zeros(len(index), 0), cheapest=int(macs.sum()), step=step)
        return Outcome(
            scores=walk.scores,
            calls=dict(provider.calls),
            decisions=_decisions(index, walk.reads, provider.max_steps),
            trace=trace,
            stopped_by=walk.stopped_by,
        )

    def _spent(self, macs: Tensor, setting: Setting, position: int, has_next: Tensor) -> Tensor:
        """`[B]` int64: what videos have cost that are answered after they looked at positions up to this one.

        Arguments:
            macs: of a backbone, a projection, a gate and a classifier.
            has_next: `[B]` bool; a gate is asked only where there is another frame.
        """
        asks_gates = float(setting.get("exit_threshold", EXIT_THRESHOLD.default)) < 1
        asks_all = float(setting.get("min_confidence", MIN_CONFIDENCE.default)) > 0
        gates = (position + has_next.long()) * asks_gates
        return (position + 1) * macs[:2].sum() + gates * macs[2] + (1 + position * asks_all) * macs[3]

    def _walk(
        self, read: Callable[[int, Tensor], Tensor], index: Tensor, setting: Setting, macs: Tensor
    ) -> _Walk:
        """Visits the steps `index` `[B, T]` until every video has stopped.

        Arguments:
            read: `(position, active [B]) -> [B, P]`: the maximum of the frames up to this position.
            macs: as `_spent` takes them.
        """
        cap = Cap.of(setting, self)
        threshold = float(setting.get("exit_threshold", EXIT_THRESHOLD.default))
        confidence = float(setting.get("min_confidence", MIN_CONFIDENCE.default))
        there = index >= 0
        active = there[:, 0]
        state = torch.zeros(len(index), self.config.projection, device=index.device)
        scores = torch.zeros(len(index), self.num_classes, device=index.device)
        reads, gates, classifiers, by = (torch.zeros_like(index[:, 0]) for _ in range(4))
        has_next = _shifted(there)
        for position in range(index.shape[1]):
            if not bool(active.any()):
                break
            before, state = state, read(position, active)
            reads = reads + active
            stops = active & ~has_next[:, position]
            by = torch.where(stops, END, by)
            going = active & ~stops
            if confidence > 0:
                here = self._scores(position, state)
                classifiers = classifiers + active
                stops = stops | (active & (here.amax(dim=-1) >= confidence))
            asked = active & ~stops
            if threshold < 1 and bool(asked.any()):
                gates = gates + asked
                stops = stops | (asked & (torch.sigmoid(self._gate(position, before, state)) > threshold))
            by = torch.where(going & stops, METHOD, by)
            then = self._spent(macs, setting, position + 1, _shifted(has_next)[:, position])
            refused = active & ~stops & ~cap.fits(then)
            by, stops = torch.where(refused, CAP, by), stops | refused
            if confidence == 0 and bool(stops.any()):
                here = self._scores(position, state)
                classifiers = classifiers + stops
            if bool(stops.any()):
                scores = torch.where(stops[:, None], here, scores)
            active = active & ~stops
        return _Walk(scores, reads, gates, classifiers, by)

    def _own_calls(self, walk: _Walk) -> dict[str, Tensor]:
        return {
            f"{self.name}.projection": walk.reads,
            f"{self.name}.gate": walk.gates,
            f"{self.name}.classifier": walk.classifiers,
        }

    def settings(self) -> list[Setting]:
        return [{"exit_threshold": EXIT_THRESHOLD.default}, {"exit_threshold": EXIT_THRESHOLD.high}]

    def stop_points(self, outcome: Outcome, setting: Setting) -> list[tuple[Setting, Outcome]]:
        threshold = float(setting.get("exit_threshold", EXIT_THRESHOLD.default))
        if threshold < 1 or float(setting.get("min_confidence", 0)) > 0 or "cap/step" not in outcome.trace:
            return []  # it stopped early: what came later was not seen
        measured = [value for each in self.settings() for value in each.values()]
        further: list[Setting] = [
            {**setting, "exit_threshold": value}
            for value in self.config.thresholds or ()
            if value not in measured
        ]
        further += [{**setting, "min_confidence": value} for value in self.config.confidences or ()]
        limits = cap_grid(outcome, self.config.caps or ())
        further += [capped(each, limit) for each in self.settings() for limit in limits]
        return [(each, self._stopped(outcome, each)) for each in further]

    def _stopped(self, outcome: Outcome, setting: Setting) -> Outcome:
        """The outcome at `setting`, from one that never stopped early."""
        states, index = outcome.trace["states"], outcome.trace["steps"]
        walk = self._walk(lambda position, _: states[:, position], index, setting, outcome.trace["macs"])
        # Whatever is not the method's own is the backbone, once per read.
        calls = dict.fromkeys(outcome.calls, walk.reads) | self._own_calls(walk)
        decisions = _decisions(index, walk.reads, outcome.decisions.shape[1])
        return Outcome(walk.scores, calls, decisions, stopped_by=walk.stopped_by)

    # Where settings are placed

    def places(self) -> bool:
        return None in (self.config.thresholds, self.config.confidences, self.config.caps)

    def probes(self) -> list[Setting]:
        return self.settings()[1:]

    def evidence(self, outcome: Outcome, setting: Setting) -> dict[str, Tensor]:
        states, index, macs = (outcome.trace[name] for name in ("states", "steps", "macs"))
        there = index >= 0
        before = F.pad(states, (0, 0, 1, 0))
        most = states.shape[1]  # the longest video may be shorter than `max_frames`
        stops = [
            self._gate(t, before[:, t], states[:, t]).sigmoid()[there[:, t + 1]]
            for t in range(min(most, len(self.gates)))
        ]
        sure = [self._scores(t, states[:, t]).amax(dim=-1)[there[:, t]] for t in range(most)]
        return {
            "stops": torch.cat(stops),
            "sure": torch.cat(sure),
            "cap/spent": there.sum(dim=1) * macs[:2].sum() + macs[3],
            "cap/cheapest": (macs.sum() - macs[2]).reshape(1),
            "cap/step": macs[:2].sum().reshape(1),
        }

    def lines(self, evidence: Mapping[str, Tensor]) -> list[Line]:
        never, config = self.settings()[1], self.config
        thresholds, confidences = config.thresholds, config.confidences
        if thresholds is None:
            thresholds = tuple(within_range([0.0, *quantiles(evidence["stops"])], EXIT_THRESHOLD))
        if confidences is None:
            # The surer it is to be, the longer it reads; at 0 it would not be asked.
            confidences = tuple(each for each in quantiles(evidence["sure"]) if 0 < each <= 1)
        return [
            Line(
                name=EXIT_THRESHOLD.name,
                settings=tuple({**never, "exit_threshold": value} for value in thresholds),
                is_listed=config.thresholds is not None,
            ),
            Line(
                name=MIN_CONFIDENCE.name,
                settings=tuple({**never, "min_confidence": value} for value in confidences),
                is_listed=config.confidences is not None,
            ),
            *cap_lines(evidence, never, listed=config.caps),
        ]

    def runs_at(self, setting: Setting) -> Setting:
        return self.settings()[1]

    def answer(self, outcome: Outcome, setting: Setting) -> Outcome:
        return self._stopped(outcome, setting)

    def component_costs(self) -> dict[str, ComponentCost]:
        example = next(self.parameters())
        state = example.new_zeros(1, self.config.projection)
        measured = {
            "projection": (self.project, example.new_zeros(1, self.width)),
            "gate": (self.gates[0], torch.cat([state, state], dim=-1)),
            "classifier": (self.classifiers[0], state),
        }
        return {
            f"{self.name}.{part}": ComponentCost(
                macs=measure_macs(module, given), input=f"{given.shape[1]} features"
            )
            for part, (module, given) in measured.items()
        }


@final
@dataclass(frozen=True, slots=True)
class _Walk:
    """How B videos were gone through."""

    scores: Tensor
    """`[B, C]`"""
    reads: Tensor
    """`[B]` int64: positions visited."""
    gates: Tensor
    """`[B]` int64: gates asked."""
    classifiers: Tensor
    """`[B]` int64: classifiers run."""
    stopped_by: Tensor
    """`[B]` int64, as of an outcome."""


def _shifted(there: Tensor) -> Tensor:
    """`[B, T]` bool: whether the next position is there."""
    return F.pad(there[:, 1:], (0, 1))


def _decisions(index: Tensor, reads: Tensor, max_steps: int) -> Tensor:
    """`[B, max_steps]`: marks the first `reads` `[B]` of the steps `index` `[B, T]`."""
    decisions = index.new_zeros(len(index), max_steps)
    for position, steps in enumerate(index.T):
        mark_read(decisions, steps.masked_fill(reads <= position, -1))
    return decisions
