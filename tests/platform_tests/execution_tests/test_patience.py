from __future__ import annotations

import errno
import os
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ray import tune

from paretovid.infra.placement import TrialResources
from paretovid.platform.execution.inquiry import Inquiry, within
from paretovid.platform.execution.outcome import AWAY, EnvironmentFault, Failed, outcome_text
from paretovid.platform.execution.patience import Place, Probe, SeenOnNode, Waiting, why_away_from_here
from paretovid.platform.execution.searcher import ParetoSearcher
from paretovid.platform.search.study import ParetoStudy
from paretovid.platform.storage.home import SweepPaths
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.context import TrialStopped
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import NonFiniteError, StaleFeaturesError

STALE = OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/f")


@pytest.fixture
def sweep(tmp_path: Path) -> SweepPaths:
    made = SweepPaths(tmp_path / "home" / "sweeps" / "s")
    made.trials.mkdir(parents=True)
    return made


def place(sweep: SweepPaths, seconds: float = 5.0, probe: Probe | None = None) -> Place:
    return Place(sweep.trial("t0000"), {"trial": "t0000"}, Waiting(seconds=seconds, probe=probe))


def failing(errors: Sequence[Exception]) -> Callable[[], str]:
    """Raises these one after the other, then answers."""
    left = list(errors)

    def attempt() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return attempt


def test_a_place_that_comes_back_costs_its_time_and_no_trial(sweep: SweepPaths) -> None:
    asked: list[float] = []

    def should_end() -> bool:
        asked.append(time.monotonic())
        return False

    faults = [STALE, StaleFeaturesError("no features in /f", "make them")]
    assert place(sweep).patiently(failing(faults), should_end=should_end) == "done"
    assert asked, "heartbeats go on"


def test_it_gives_up_when_the_time_is_over_that_getting_on_begins_anew(sweep: SweepPaths) -> None:
    def never() -> str:
        raise STALE

    began = time.monotonic()
    with pytest.raises(OSError, match="Stale"):
        place(sweep, seconds=1.0).patiently(never, should_end=lambda: False)
    assert time.monotonic() - began < 5
    reports = iter([1, 1, 2, 2, 3, 3])
    # Between two faults it has got on: none of them is the second one of a row.
    impatient = place(sweep, seconds=0.3)
    attempt = failing([STALE, STALE, STALE])
    assert impatient.patiently(attempt, should_end=lambda: False, reports=lambda: next(reports)) == "done"


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.ENOSPC, "No space left"), NonFiniteError("nan"), TrialStopped()]
)
def test_other_errors_are_not_waited_for(sweep: SweepPaths, error: Exception) -> None:
    with pytest.raises(type(error)):
        place(sweep).patiently(failing([error]), should_end=lambda: False)


def test_a_wish_to_stop_ends_the_wait_at_once(sweep: SweepPaths) -> None:
    began = time.monotonic()
    with pytest.raises(TrialStopped):
        place(sweep, seconds=600).patiently(failing([STALE] * 50), should_end=lambda: True)
    assert time.monotonic() - began < 5


def test_the_verdict_is_the_places_only_where_the_place_is_ill(sweep: SweepPaths) -> None:
    def ill(config: JsonObject) -> None:
        assert config["trial"] == "t0000"
        raise StaleFeaturesError("no features in /f", "make them")

    away = place(sweep, probe=ill).verdict(STALE)
    assert isinstance(away, EnvironmentFault) and away.node and away.reason == "/f: Stale file handle"
    assert place(sweep).verdict(STALE) == Failed(reason="/f: Stale file handle", retry=True)
    assert place(sweep, probe=ill).verdict(ValueError("x")) is None
    full = place(sweep).verdict(OSError(errno.ENOSPC, "No space left on device", "/f"))
    assert isinstance(full, EnvironmentFault) and full.reason.startswith("/f: No space left on device (")


def test_a_home_that_is_gone_is_seen_and_no_new_one_is_made_in_its_place(sweep: SweepPaths) -> None:
    home = sweep.home_root
    home.rename(home.with_name("away"))
    fault = place(sweep).verdict(FileNotFoundError(errno.ENOENT, "No such file", str(sweep.folder / "x")))
    assert isinstance(fault, EnvironmentFault) and not home.exists()
    assert why_away_from_here(sweep.reference(), sweep.folder, {"trial": "t0000"}, None) is not None
    home.with_name("away").rename(home)
    assert why_away_from_here(sweep.reference(), sweep.folder, {"trial": "t0000"}, None) is None
    assert list(sweep.trials.iterdir()) == []


def test_what_a_worker_has_seen_keeps_its_node_on_its_way() -> None:
    seen = pickle.loads(pickle.dumps(SeenOnNode("no features", "make them", node="n1", host="h")))  # noqa: S301
    assert (seen.message, seen.hint, seen.node, seen.host) == ("no features", "make them", "n1", "h")


def test_the_process_stays_until_the_place_is_back(
    sweep: SweepPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, str]] = []
    monkeypatch.setattr(tune, "report", reported.append)
    tried: list[int] = []

    def probe(config: JsonObject) -> None:
        tried.append(1)
        if len(tried) < 4:
            raise STALE

    waiting = Waiting(seconds=0.0, probe=probe, recheck_seconds=0.01)
    stays = Place(sweep.trial("t0000"), {"trial": "t0000"}, waiting)
    fault = stays.verdict(STALE)
    assert isinstance(fault, EnvironmentFault)
    stays.stay_until_back(fault, TrialResources())
    assert reported == [{AWAY: outcome_text(fault)}] and len(tried) == 4


# The driver's inquiry, with answers instead of nodes.


def searching(folder: Path, faults: Sequence[str]) -> ParetoSearcher:
    """A searcher with one trial given back by each of these nodes."""
    study = ParetoStudy(
        storage=f"journal://{folder}/optuna.journal",
        name="s",
        knobs={"gamma": KnobConfig(field="gamma", low=0.01, high=0.5)},
        trials=8,
    )
    searcher = ParetoSearcher(study, concurrent=len(faults))
    for node in faults:
        searcher.suggest(node)
    for node in faults:
        fault = EnvironmentFault(reason="/f: gone", node=node, host=f"host-{node}")
        searcher.on_trial_result(node, {AWAY: outcome_text(fault)})
    return searcher


@pytest.mark.parametrize(
    ("here", "answers", "said"),
    [
        (None, {"n2": None, "n3": "gone"}, None),
        (None, {"n2": "gone", "n3": "no answer in 20 s"}, "/f: gone, on all 3 nodes"),
        (None, {}, "/f: gone, on host-n1"),
        ("gone", {"n2": None}, "/f: gone, seen from host-n1 and from the driver's"),
    ],
)
def test_a_sweep_ends_when_no_node_is_left_that_sees_the_place(
    tmp_path: Path, here: str | None, answers: dict[str, str | None], said: str | None
) -> None:
    searcher, asked = searching(tmp_path, ["n1"]), []

    def ask(nodes: Sequence[str], config: JsonObject, seconds: float) -> dict[str, str | None]:
        asked.append(([*nodes], config["trial"]))
        return answers

    inquiry = Inquiry(
        searcher, look=lambda config: here, nodes=lambda: ["n1", *answers], ask=ask, seconds=5.0
    )
    for _ in range(3):
        inquiry.poll()
        inquiry.join()
    assert asked == ([] if here or not answers else [([*answers], "t0000")]), "once, and not the node itself"
    found = searcher.environment_fault
    assert found is None if said is None else str(found).startswith(said)
    assert searcher.needs_no_room is (said is not None)


def test_a_second_node_without_it_is_asked_for_anew(tmp_path: Path) -> None:
    searcher, asked = searching(tmp_path, ["n1"]), []

    def ask(nodes: Sequence[str], config: JsonObject, seconds: float) -> dict[str, str | None]:
        asked.append([*nodes])
        return dict.fromkeys(nodes)

    inquiry = Inquiry(searcher, look=lambda config: None, nodes=lambda: ["n1", "n2", "n3"], ask=ask)
    for node in ("n2", "n3"):
        inquiry.poll()
        inquiry.join()
        searcher.suggest(node)
        fault = EnvironmentFault(reason="/f: gone", node=node, host=node)
        searcher.on_trial_result(node, {AWAY: outcome_text(fault)})
    assert asked == [["n2", "n3"], ["n3"]] and searcher.environment_fault is None
    inquiry.poll()
    inquiry.join()
    assert searcher.environment_fault == "/f: gone, on n3", "none is left to be asked"


def test_a_mount_that_lets_nobody_return_is_away() -> None:
    released = threading.Event()
    began = time.monotonic()
    assert within(0.2, lambda: str(released.wait(30))) == "no answer in 0 s"
    assert time.monotonic() - began < 10 and within(5.0, lambda: None) is None
    released.set()
