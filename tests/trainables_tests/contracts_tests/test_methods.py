"""The suites that plug-ins' tests inherit: a method that breaks a rule fails, and is told which."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from paretovid.trainables.baselines.uniform import Uniform
from paretovid.trainables.contracts.methods import MethodContract
from paretovid.trainables.layers.caps import capped
from paretovid.trainables.layers.coarse_to_fine import FINE
from paretovid.trainables.method import METHODS, PlacesSettings
from paretovid.trainables.outcome import Batch, Line, Loss, Outcome, Progress, Setting
from paretovid.trainables.provider import Provider

pytestmark = pytest.mark.usefixtures("no_plugins")


class Mine(Uniform, PlacesSettings):  # type: ignore[misc]
    """Keeps every rule. `Uniform` is final to type checkers only; a subclass is the shortest method there is."""

    name = "mine"
    runs = 0
    scale = 1.0

    def places(self) -> bool:
        return True

    def probes(self) -> list[Setting]:
        return self.settings()[:1]

    def evidence(self, outcome: Outcome, setting: Setting) -> dict[str, torch.Tensor]:
        limits = [float(each["max_gflops"]) for each, _ in self.stop_points(outcome, setting)]
        return {"limits": torch.tensor(limits, dtype=torch.float64)}

    def lines(self, evidence: Mapping[str, torch.Tensor]) -> list[Line]:
        settings = tuple(capped(self.settings()[0], limit) for limit in evidence["limits"].tolist())
        return [Line(name="max_gflops", settings=settings)]

    def runs_at(self, setting: Setting) -> Setting:
        return self.settings()[0] if "max_gflops" in setting else setting

    def answer(self, outcome: Outcome, setting: Setting) -> Outcome:
        found = self.stop_points(outcome, self.settings()[0])
        return next(answer for each, answer in found if each == setting)


def lined(*settings: Setting) -> dict[str, Any]:
    """A `lines` of these settings."""
    return {"lines": lambda self, evidence: [Line(name="mine", settings=settings)]}


def answering(change: Callable[[Mine, Provider, Outcome], dict[str, Any]]) -> dict[str, Any]:
    """A `run` whose outcome has other fields."""

    def run(self: Mine, provider: Provider, setting: Setting) -> Outcome:
        self.runs += 1
        outcome = Uniform.run(self, provider, setting)
        return dataclasses.replace(outcome, **change(self, provider, outcome))

    return {"run": run}


def losing(change: Callable[[Mine, Batch, Loss], torch.Tensor]) -> dict[str, Any]:
    """A `loss` with another total."""

    def loss(self: Mine, batch: Batch, progress: Progress) -> Loss:
        made = Uniform.loss(self, batch, progress)
        return dataclasses.replace(made, total=change(self, batch, made))

    return {"loss": loss}


def mixed(scores: torch.Tensor, share: float) -> dict[str, Any]:
    """Scores `[B, C]` and those of the next class, mixed; they still add up to 1."""
    return {"scores": (1 - share) * scores + share * scores.roll(1, dims=1)}


def steps_with_padding(provider: Provider) -> int:
    return int(provider.peek(FINE).shape[1])


def with_one_more_layer(self: Mine, config: Any, **options: Any) -> None:
    Uniform.__init__(self, config, **options)
    self.idle = torch.nn.Linear(1, 1)


def grown(self: Mine, batch: Batch, made: Loss) -> torch.Tensor:
    self.scale = 0.5
    return made.total


TRAINING = "test_training_lowers_the_loss_and_reaches_every_parameter"
SCORES = "test_scores_are_probabilities_and_a_run_repeats_itself"
WORDS = "test_every_call_has_a_cost_and_decisions_have_words"
SETTINGS = "test_settings_begin_at_the_defaults_and_keep_to_the_knobs"
PLACES = "test_settings_to_place_are_those_of_its_knobs_and_answered_as_by_a_run"
BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    (TRAINING, r"it does not reach \['idle\.weight', 'idle\.bias'\]", {"__init__": with_one_more_layer}),
    (TRAINING, "training lowers the loss by a fifth", losing(lambda self, batch, made: 1e3 + made.total)),
    (
        "test_padding_gets_no_gradient",
        r"padded steps have no part in the loss; those of \['fine'\] have",
        losing(lambda self, batch, made: made.total + batch.features[FINE].mean()),
    ),
    (SCORES, r"Outcome\.scores is \[B, C\]", answering(lambda s, p, o: {"scores": o.scores[:, :-1]})),
    (SCORES, "from 0 to 1", answering(lambda s, p, o: {"scores": 2 * o.scores})),
    (SCORES, "add up to 1", answering(lambda s, p, o: {"scores": 0.5 * o.scores})),
    (
        SCORES,
        "a run repeats itself",
        answering(lambda s, p, o: mixed(o.scores, 0.1 / s.runs)),
    ),
    (
        "test_padding_changes_nothing",
        "padded steps change no score",
        answering(lambda s, p, o: mixed(o.scores, 1 / steps_with_padding(p))),
    ),
    (
        "test_padding_changes_nothing",
        "padded steps cost nothing",
        answering(lambda s, p, o: {"calls": {c: n + steps_with_padding(p) for c, n in o.calls.items()}}),
    ),
    (
        "test_only_a_method_of_localization_has_detections",
        "and no other",
        answering(lambda s, p, o: {"detections": ((),) * p.batch_size}),
    ),
    (
        "test_a_raw_video_gives_the_answers_of_cached_features",
        "one video gives what a batch gives",
        answering(lambda s, p, o: mixed(o.scores, 1 / p.batch_size)),
    ),
    (WORDS, r"reads\(\) begins with none", {"reads": lambda self: ("coarse", FINE)}),
    (WORDS, r"reads\(\) has a word for each decision; none for 2", {"reads": lambda self: ("none", FINE)}),
    (WORDS, "an answer costs something", answering(lambda s, p, o: {"calls": {}})),
    (WORDS, "about a padded step", answering(lambda s, p, o: {"decisions": o.decisions.clamp(min=1)})),
    (
        "test_stop_points_are_what_a_run_at_that_setting_gives",
        r"stop_points gives what a run at that setting gives: \{'num_frames': 1\}",
        {"stop_points": lambda self, outcome, setting: [({"num_frames": 1}, outcome)]},
    ),
    (PLACES, "evidence.. is one-dimensional", {"evidence": lambda self, o, s: {"all": o.scores}}),
    (PLACES, "a line names each setting once", lined({"num_frames": 1}, {"num_frames": 1})),
    (PLACES, r"lines\(\) names inference knobs; speed is none", lined({"speed": 3})),
    (PLACES, r"lines\(\) keeps to what a knob allows; num_frames is -1", lined({"num_frames": -1})),
    (
        PLACES,
        r"runs_at\(\) names a run",
        {"runs_at": lambda self, setting: {"num_frames": int(setting["num_frames"]) + 1}},
    ),
    (PLACES, r"answer\(\) gives what a run at that setting gives", {"answer": lambda self, o, setting: o}),
    (SETTINGS, "the first of settings", {"settings": lambda self: [{"num_frames": 3}]}),
    (SETTINGS, "each setting once", {"settings": lambda self: [{"num_frames": 0}, {"num_frames": 0}]}),
    (SETTINGS, "speed is none", {"settings": lambda self: [{"speed": 3}]}),
    (SETTINGS, "num_frames is -1", {"settings": lambda self: [{"num_frames": 0}, {"num_frames": -1}]}),
    (
        "test_its_state_survives_a_file",
        "everything that a run needs is a parameter or a buffer",
        losing(grown) | answering(lambda s, p, o: mixed(o.scores, s.scale)),
    ),
    (
        "test_it_reads_known_sources",
        "sources_of names sources",
        {"sources_of": classmethod(lambda cls, config: ("smell",))},
    ),
]


def suite_of(members: dict[str, Any]) -> MethodContract:
    METHODS.register("mine", type("Mine", (Mine,), members), "here:Mine")
    suite: MethodContract = type("TestMine", (MethodContract,), {"name": "mine"})()
    suite.setup_method()
    return suite


def rules_of(suite: object) -> list[str]:
    return [name for name in dir(suite) if name.startswith("test_")]


@pytest.mark.parametrize(("test", "rule", "members"), BROKEN, ids=[f"{t}-{r[:12]}" for t, r, _ in BROKEN])
def test_a_method_that_breaks_a_rule_is_told_which(test: str, rule: str, members: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=rf"^rule: .*{rule}"):
        getattr(suite_of(members), test)()


def test_a_method_that_keeps_them_passes_and_every_test_was_seen_to_fail() -> None:
    suite = suite_of({})
    for test in rules_of(suite):
        getattr(suite, test)()
    checked_before = (
        "test_it_keeps_what_its_class_promises"  # when it is registered: plugins_tests/test_catalog.py
    )
    assert set(rules_of(suite)) == {test for test, _, _ in BROKEN} | {checked_before}
