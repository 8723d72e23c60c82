from __future__ import annotations

from pathlib import Path

import pytest

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.search.study import ParetoStudy
from paretovid.search_spaces.samplers import RANDOM, SAMPLERS, register_sampler
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.errors import UnknownNameError, UsageError
from paretovid.trainables.testing import synthetic_metrics

MINE = """
from paretovid.search_spaces.samplers import register_sampler

def lowest(asked, seed):
    return {name: knob.low + 0.01 * len(asked.history().finished) for name, knob in asked.space.ranges.items()}

register_sampler("lowest", lowest)
"""


def test_every_own_sampler_is_there() -> None:
    assert {"curves", "gp", RANDOM, "tpe"} <= set(SAMPLERS.names())
    assert all(map(callable, SAMPLERS.get_all()))


@pytest.mark.usefixtures("no_plugins")
def test_one_of_a_module_is_chosen_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(UsageError, match=r"unknown value of search\.sampler"):
        load_sweep_config(["search.sampler=lowest"])
    assert load_sweep_config(["plugins=[mine]", "search.sampler=lowest"]).search.sampler == "lowest"
    study = ParetoStudy(
        storage=f"journal://{tmp_path}/journal",
        name="s",
        knobs={"gamma": KnobConfig(low=0.25, high=1)},
        trials=4,
        sampler="lowest",
    )
    asked = []
    while (suggestion := study.ask()) is not None:
        asked.append((suggestion.knobs["gamma"], suggestion.origin))
        study.report(suggestion.trial_id, synthetic_metrics())
    assert asked[2:] == [(0.25 + 0.02, "lowest"), (0.25 + 0.03, "lowest")]


def test_an_unknown_one_is_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown sampler: 'tpee'") as raised:
        ParetoStudy(storage=f"journal://{tmp_path}/journal", name="s", knobs={}, trials=1, sampler="tpee")
    assert "Did you mean 'tpe'" in raised.value.hint


@pytest.mark.usefixtures("no_plugins")
@pytest.mark.parametrize(
    ("sampler", "rule"), [(3, "it is 3, and must be a function"), (lambda asked: {}, "a seed: too many")]
)
def test_what_breaks_the_contract_is_refused(sampler: object, rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        register_sampler("broken", sampler)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_plugins")
def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(UsageError, match="the sampler 'tpe' is there twice"):
        register_sampler("tpe", lambda asked, seed: {})
