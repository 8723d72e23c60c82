"""What stands in for a sampler that repeats itself: tests of `propose` on samplers that always do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from paretovid.platform.search.curves import History
from paretovid.platform.search.knob_space import Knobs, KnobSpace, key_of
from paretovid.platform.search.samplers import (
    REPEATED,
    TOO_FEW,
    Asked,
    Given,
    OptunaSampler,
    Proposal,
    propose,
    random_configuration,
)
from paretovid.search_spaces.samplers import SAMPLERS
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.pareto import Reference

SPACE = KnobSpace({"gamma": KnobConfig(low=0.1, high=0.5), "clips": KnobConfig(low=1, high=3, whole=True)})
FIRST: Knobs = {"gamma": 0.1, "clips": 1}


def asked() -> Asked:
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.ask()
    history = History(finished=(), running=(), reference=Reference(gflops=1.0))
    return Asked(study=study, trial=study.trials[0], space=SPACE, guided_by="point", history=lambda: history)


def proposed(known: set[str], *, sampler: str = "same", fixed: Mapping[str, object] = {}) -> Proposal | None:
    return propose(sampler, asked(), known=known, fixed=fixed, seed=5)


@pytest.fixture(autouse=True)
def same(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """`sampler=same` says the same whatever happens; the seeds that it was asked with."""
    seeds: list[int] = []

    def suggest(asked: Asked, seed: int) -> Knobs:
        seeds.append(seed)
        return FIRST

    monkeypatch.setattr(SAMPLERS, "get", {"same": suggest}.get)
    return seeds


def test_what_a_sampler_says_is_taken_if_it_is_untried(same: list[int]) -> None:
    assert proposed(set()) == Proposal(knobs=FIRST)
    assert len(same) == 1


def test_one_that_repeats_itself_is_replaced_in_a_continuous_space(same: list[int]) -> None:
    known = {key_of(FIRST)}
    drawn = proposed(known)
    assert drawn is not None and drawn.replaces == REPEATED and key_of(drawn.knobs) not in known
    assert len(set(same)) == len(same) == 3, "it is asked again, each time with another seed"
    assert proposed(known) == drawn, "and what stands in for it hangs on seed and number alone"


def test_with_too_few_results_the_sampler_is_not_asked(same: list[int]) -> None:
    drawn = propose("same", asked(), known=(), fixed={}, seed=5, has_few=True)
    assert drawn is not None and drawn.replaces == TOO_FEW and same == []


def test_what_is_fixed_counts_for_what_was_tried() -> None:
    known = {key_of({"gamma": 0.3, "clips": 1})}
    drawn = proposed(known, fixed={"gamma": 0.3})
    assert drawn is not None and drawn.replaces == REPEATED and drawn.knobs["gamma"] == 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 0.2},
        {"gamma": 0.6, "clips": 1},
        {"gamma": 0.2, "clips": 1.5},
        {**FIRST, "other": 1},
        {"gamma": "0.2", "clips": 1},
        {"gamma": math.nan, "clips": 1},
    ],
)
def test_what_is_no_configuration_is_refused_by_the_samplers_name(
    monkeypatch: pytest.MonkeyPatch, wrong: Knobs
) -> None:
    monkeypatch.setattr(SAMPLERS, "get", lambda name: lambda asked, seed: wrong)
    with pytest.raises(UsageError, match=r"the sampler 'same' has suggested \{") as raised:
        proposed(set())
    assert "gamma, clips" in raised.value.hint


def test_the_random_one_is_the_same_for_a_seed() -> None:
    drawn = random_configuration(asked(), 1)
    assert random_configuration(asked(), 1) == drawn != random_configuration(asked(), 2)
    assert SPACE.within([drawn]) == [drawn]


def test_random_draws_replace_nothing() -> None:
    drawn = proposed(set(), sampler="random")
    assert drawn is not None and drawn.replaces is None


def test_knobs_that_a_sampler_leaves_out_are_drawn_on_their_own() -> None:
    class Half(Given):  # type: ignore[misc]
        def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
            return {"gamma": 0.4}

    half = OptunaSampler(lambda seed: Half({**FIRST, "clips": 2.0}, SPACE.distributions))
    assert half(asked(), 0) == {"gamma": 0.4, "clips": 2}
