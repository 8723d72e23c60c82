"""The rules of a method."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch

from paretovid.trainables.catalog import ConfiguredMethod, method_class, method_config
from paretovid.trainables.contracts.base import Contract
from paretovid.trainables.cost import CostTable, deterministic_eval
from paretovid.trainables.features.store import FeatureSplit
from paretovid.trainables.method import Method, PlacesSettings
from paretovid.trainables.outcome import Batch, InferenceKnob, Outcome, Progress, Setting
from paretovid.trainables.testing import (
    WIDTHS,
    padded_by,
    reloaded,
    run_cached,
    run_one_by_one,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
    train_briefly,
)

T = TypeVar("T")


class _Trained:
    """A method after its training, with what it has answered so far."""

    def __init__(self, method: Method, split: FeatureSplit, costs: CostTable) -> None:
        self.method, self.costs = method, costs
        self._split = split
        self._answers: dict[frozenset[tuple[str, object]], Outcome] = {}

    def answer(self, setting: Setting) -> Outcome:
        key = frozenset(setting.items())
        if key not in self._answers:
            self._answers[key] = run_cached(self.method, self._split, setting, self.costs)
        return self._answers[key]


class MethodContract(Contract):
    """The rules of `Method`; a plug-in's tests inherit them: `class TestMine(MethodContract): name = "mine"`.

    The synthetic sources are coarse, fine, motion, audio, appearance, flow, difference, and xs, s, m, l of a pool.
    """

    fields: ClassVar[Mapping[str, Any]] = {}
    """Of its Config, where they are not the defaults."""
    multi_label: ClassVar[bool] = False
    unreached: ClassVar[tuple[str, ...]] = ()
    """What the names of parameters begin with that are of no use with these fields, and get no gradient."""

    _trained: ClassVar[dict[object, _Trained]] = {}

    def _once(self) -> _Trained:
        """The trained method and its answers, made once for all tests."""
        key = (method_class(self.name), repr(self.fields), self.multi_label)
        if key not in self._trained:
            method = synthetic_method(self.name, self.fields, multi_label=self.multi_label)
            train_briefly(method, synthetic_split(seed=1, multi_label=self.multi_label))
            split = synthetic_split(multi_label=self.multi_label)
            made = self._trained[key] = _Trained(method, split, synthetic_costs(method))
            # Before the first copy is made: what a run leaves behind in the method is to show in a second one.
            for setting in method.settings():
                made.answer(setting)
        return self._trained[key]

    def trained(self) -> tuple[Method, FeatureSplit]:
        """A copy of the method after a few steps of training, and other videos than those."""
        return copy.deepcopy(self._once().method), synthetic_split(multi_label=self.multi_label)

    def costs(self) -> CostTable:
        """Of the synthetic sources and of the method's own components; measured once."""
        return self._once().costs

    def answer(self, setting: Setting) -> Outcome:
        """What the trained method answers at a setting about those videos; run once, for reading only."""
        return self._once().answer(setting)

    def answers(self) -> list[tuple[Setting, Outcome]]:
        """Each of its settings, and what the trained method answers there; for reading only."""
        return [(setting, self.answer(setting)) for setting in self._once().method.settings()]

    def test_it_keeps_what_its_class_promises(self) -> None:
        """Name, Config, task, knobs: `METHODS` says which rule is broken."""
        assert method_class(self.name).name == self.name

    def test_it_reads_known_sources(self) -> None:
        sources = method_class(self.name).sources_of(method_config(self.name, self.fields))
        assert sources and set(sources) <= set(WIDTHS), f"rule: sources_of names sources; it names {sources}"

    def test_training_lowers_the_loss_and_reaches_every_parameter(self) -> None:
        method = synthetic_method(self.name, self.fields, multi_label=self.multi_label)
        if not any(True for _ in method.parameters()):
            return
        split = synthetic_split(num_videos=24, multi_label=self.multi_label)
        batch = Batch(split.features, split.mask, split.targets, split.video_keys)
        for step in (0, 9):  # what is trained first may be frozen at the end
            method.loss(batch, Progress(step, 10)).total.backward()
        wanted = {n: p.grad for n, p in method.named_parameters() if p.requires_grad}
        unreached = [n for n, grad in wanted.items() if grad is None or not grad.abs().sum() > 0]
        unreached = [name for name in unreached if not name.startswith(self.unreached)]
        assert not unreached, f"rule: the loss reaches every parameter; it does not reach {unreached}"
        for steps in (20, 40):  # most need no more than the first
            fresh = synthetic_method(self.name, self.fields, multi_label=self.multi_label)
            losses = train_briefly(fresh, split, steps=steps)
            if lowered := sum(losses[-5:]) < 0.8 * sum(losses[:5]):
                break
        assert lowered, (
            f"rule: training lowers the loss by a fifth; it went from {losses[0]:.4g} to {losses[-1]:.4g}"
        )

    def test_padding_gets_no_gradient(self) -> None:
        method, split = self.trained()
        longer = padded_by(split, 4)
        features = {source: values.requires_grad_() for source, values in longer.features.items()}
        batch = Batch(features, longer.mask, longer.targets, longer.video_keys)
        for step in (0, 9) if any(True for _ in method.parameters()) else ():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad")
                method.loss(batch, Progress(step, 10)).total.backward()
        reached = {s: values.grad for s, values in features.items() if values.grad is not None}
        leaky = [source for source, grad in reached.items() if grad[~longer.mask].any()]
        assert not leaky, f"rule: padded steps have no part in the loss; those of {leaky} have"

    def test_scores_are_probabilities_and_a_run_repeats_itself(self) -> None:
        method, split = self.trained()
        for setting, first in self.answers():
            assert first.scores.shape == split.targets.shape, "rule: Outcome.scores is [B, C]"
            inside = bool(((first.scores >= 0) & (first.scores <= 1)).all())
            assert inside, f"rule: Outcome.scores are from 0 to 1; at {setting} they are not"
            if not self.multi_label:
                rule = f"rule: Outcome.scores of a video with one label add up to 1: {setting}"
                torch.testing.assert_close(first.scores.sum(1), torch.ones(len(split.targets)), msg=rule)
            second = run_cached(method, split, setting, self.costs())
            same = torch.equal(first.scores, second.scores) and _calls(first) == _calls(second)
            assert same, f"rule: a run repeats itself; at {setting} it does not"

    def test_padding_changes_nothing(self) -> None:
        method, split = self.trained()
        longer = padded_by(split, 4)
        for setting, short in _some(self.answers()):
            long = run_cached(method, longer, setting, self.costs())
            rule = f"rule: padded steps change no score: {setting}"
            torch.testing.assert_close(short.scores, long.scores, msg=rule)
            assert short.detections == long.detections, f"rule: padded steps change no detection: {setting}"
            assert _calls(short) == _calls(long), f"rule: padded steps cost nothing: {setting}"

    def test_only_a_method_of_localization_has_detections(self) -> None:
        localizes = method_class(self.name).task == "localization"
        for setting, outcome in self.answers():
            assert (outcome.detections is not None) == localizes, (
                f"rule: Outcome.detections is what a method of localization gives, and no other: {setting}"
            )

    def test_a_raw_video_gives_the_answers_of_cached_features(self) -> None:
        method, split = self.trained()
        for setting, together in _some(self.answers()) if method.deployable else ():
            alone = run_one_by_one(method, split, setting, self.costs())
            scores = torch.cat([outcome.scores for outcome in alone])
            rule = f"rule: one video gives what a batch gives: {setting}"
            torch.testing.assert_close(together.scores, scores, atol=1e-5, rtol=1e-5, msg=rule)
            for video, outcome in enumerate(alone):
                one, of_all = _calls(outcome), _calls(together, video)
                assert one == of_all, f"{rule}: {one} calls alone, {of_all} in a batch"

    def test_every_call_has_a_cost_and_decisions_have_words(self) -> None:
        method, split = self.trained()
        costs, reads = self.costs(), method.reads()
        sources = method.sources_of(method_config(self.name, self.fields))
        named = reads[0] == "none" and reads[-1] in sources
        assert named, f"rule: reads() begins with none and ends with a source that is read; it is {reads}"
        for setting, outcome in self.answers():
            spends = bool(outcome.calls) and bool((costs.gflops(outcome.calls) > 0).any())
            assert spends, f"rule: an answer costs something: {setting}"
            assert outcome.decisions.shape == split.mask.shape, "rule: Outcome.decisions is [B, T]"
            most = int(outcome.decisions.max())
            assert most < len(reads), f"rule: reads() has a word for each decision; none for {most}"
            assert not outcome.decisions[~split.mask].any(), "rule: no decision about a padded step"

    def test_stop_points_are_what_a_run_at_that_setting_gives(self) -> None:
        method, _ = self.trained()
        for setting, outcome in self.answers():
            for stopped, answer in method.stop_points(outcome, setting):
                direct = self.answer(stopped)
                rule = f"rule: stop_points gives what a run at that setting gives: {stopped}"
                torch.testing.assert_close(answer.scores, direct.scores, msg=rule)
                assert answer.detections == direct.detections, rule
                seen = answer.decisions[:, : direct.decisions.shape[1]]
                assert torch.equal(seen, direct.decisions), rule
                assert _calls(answer) == _calls(direct), rule

    def test_settings_to_place_are_those_of_its_knobs_and_answered_as_by_a_run(self) -> None:
        method, _ = self.trained()
        if not isinstance(method, PlacesSettings) or not method.places():
            return
        evidence: dict[str, list[torch.Tensor]] = {}
        for probe in method.probes():
            with deterministic_eval(method):
                for name, values in method.evidence(self.answer(probe), probe).items():
                    assert values.dim() == 1, f"rule: evidence() is one-dimensional; {name} is not"
                    evidence.setdefault(name, []).append(values)
        lines = method.lines({name: torch.cat(values) for name, values in evidence.items()})
        knobs = {knob.name: knob for knob in ConfiguredMethod.of(self.name, dict(self.fields)).knobs}
        for line in lines:
            distinct = {tuple(sorted(setting.items())) for setting in line.settings}
            assert len(distinct) == len(line.settings), f"rule: a line names each setting once: {line.name}"
            for setting in line.settings:
                for name, value in setting.items():
                    _check_allowed(knobs, name, value, "lines()")
            for setting, _ in _some([(setting, None) for setting in line.settings], most=3):
                ran = method.runs_at(setting)
                assert method.runs_at(ran) == ran, f"rule: runs_at() names a run: {ran}"
                if ran == setting:
                    continue
                answer, direct = method.answer(self.answer(ran), setting), self.answer(setting)
                rule = f"rule: answer() gives what a run at that setting gives: {setting}"
                torch.testing.assert_close(answer.scores, direct.scores, msg=rule)
                assert answer.detections == direct.detections, rule
                seen = answer.decisions[:, : direct.decisions.shape[1]]
                assert torch.equal(seen, direct.decisions), rule
                assert _calls(answer) == _calls(direct), rule
                if answer.stopped_by is not None and direct.stopped_by is not None:
                    assert torch.equal(answer.stopped_by, direct.stopped_by), rule

    def test_settings_begin_at_the_defaults_and_keep_to_the_knobs(self) -> None:
        method = synthetic_method(self.name, self.fields)
        knobs = {knob.name: knob for knob in ConfiguredMethod.of(self.name, dict(self.fields)).knobs}
        settings = method.settings()
        assert settings, "rule: settings() gives at least one"
        distinct = {tuple(sorted(setting.items())) for setting in settings}
        assert len(distinct) == len(settings), "rule: settings() names each setting once"
        for name, value in settings[0].items():
            assert name not in knobs or value == knobs[name].default, (
                f"rule: the first of settings() is the default; {name} is {value}"
            )
        for setting in settings:
            for name, value in setting.items():
                _check_allowed(knobs, name, value, "settings()")

    def test_its_state_survives_a_file(self) -> None:
        method, split = self.trained()
        # The optimizer's state, which a checkpoint keeps, is laid out as they are.
        scattered = [name for name, each in method.named_parameters() if not each.is_contiguous()]
        assert not scattered, f"rule: parameters are contiguous; {scattered} are not"
        setting, outcome = self.answers()[0]
        fresh = reloaded(method, self.name, self.fields, multi_label=self.multi_label)
        same = torch.equal(outcome.scores, run_cached(fresh, split, setting, self.costs()).scores)
        assert same, "rule: everything that a run needs is a parameter or a buffer"


def _check_allowed(knobs: Mapping[str, InferenceKnob], name: str, value: float | str, where: str) -> None:
    assert name in knobs, f"rule: {where} names inference knobs; {name} is none"
    allowed = value in knobs[name].words if isinstance(value, str) else value in knobs[name].range
    assert allowed, f"rule: {where} keeps to what a knob allows; {name} is {value}"


def _some(answers: list[tuple[Setting, T]], most: int = 4) -> list[tuple[Setting, T]]:
    """At most so many of them, the first and the last included."""
    if len(answers) <= most:
        return answers
    return [answers[round(i * (len(answers) - 1) / (most - 1))] for i in range(most)]


def _calls(outcome: Outcome, video: int | None = None) -> dict[str, list[int]]:
    """Component to its calls in each video, or in that one; those that were never called left out."""
    rows = slice(None) if video is None else slice(video, video + 1)
    counts = {name: count[rows].tolist() for name, count in outcome.calls.items()}
    return {name: count for name, count in counts.items() if any(count)}
