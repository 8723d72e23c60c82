"""What crosses Ray: every outcome comes back as it was, and what is none is refused with its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paretovid.platform.execution.outcome import (
    VERSION,
    EnvironmentFault,
    Failed,
    Finished,
    JudgedOut,
    Stopped,
    TrialCallback,
    TrialOutcome,
    outcome_text,
    parse_outcome,
)
from paretovid.platform.execution.trial_process import failure
from paretovid.trainables.errors import DataError, NonFiniteError, StaleFeaturesError, UsageError
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.testing import synthetic_result


@pytest.mark.parametrize(
    "outcome",
    [
        Finished(result=synthetic_result(points=[(0.5, 2.0), (0.25, 1.0)], model={"k": [1, 2]})),
        Failed(reason="boom", retry=True),
        Failed(reason="its node was lost", retry=True, is_infrastructure=True),
        Failed(reason="diverged", retry=False),
        Stopped(),
        JudgedOut(epoch=11, epochs=40),
        EnvironmentFault(reason="No space left on device"),
        EnvironmentFault(reason="/f: Stale file handle", node="3f", host="h"),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_every_outcome_comes_back_as_it_was(outcome: TrialOutcome) -> None:
    assert parse_outcome(outcome_text(outcome)) == outcome


def test_a_fault_of_the_place_as_earlier_versions_wrote_it_is_read() -> None:
    text = json.dumps({"kind": "environment_fault", "version": 1, "reason": "full"})
    assert parse_outcome(text) == EnvironmentFault(reason="full")


def test_a_result_that_is_not_finite_does_not_leave_the_trial() -> None:
    with pytest.raises(NonFiniteError, match="not finite"):
        outcome_text(Finished(result=synthetic_result(points=[(float("nan"), 1.0)])))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("[1]", "holds a list"),
        ("{}", "no field 'kind'"),
        ('{"kind": "lost"}', "cannot be 'lost'"),
        (json.dumps({"kind": "stopped", "version": VERSION + 1}), f"of version {VERSION + 1}"),
        ('{"kind": "failed", "reason": "boom", "is_infrastructure": false}', "no field 'retry'"),
        ('{"kind": "failed", "reason": 3, "retry": true}', "reason must be a text, not 3"),
        ('{"kind": "finished"}', "no field 'result'"),
        ('{"kind": "finished", "result": {"trial": "t0000"}}', "a trial's result has no field"),
    ],
)
def test_what_is_no_outcome_is_refused(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        parse_outcome(text)
    assert error.value.hint


def test_nan_on_the_way_is_refused() -> None:
    text = outcome_text(Finished(result=synthetic_result())).replace('"top1": 0.5', '"top1": NaN')
    with pytest.raises(NonFiniteError, match="top1 is nan"):
        parse_outcome(text)


@pytest.mark.parametrize(
    ("error", "on_gpu", "outcome"),
    [
        (OSError(28, "No space left on device"), False, EnvironmentFault),
        (
            OSError(2, "No such file"),
            False,
            Failed(reason="FileNotFoundError: [Errno 2] No such file", retry=True),
        ),
        (OSError(116, "Stale file handle"), False, EnvironmentFault),
        (StaleFeaturesError("no features in /x", "make them"), True, EnvironmentFault),
        (UsageError("bad"), True, Failed(reason="bad", retry=False)),
        (DataError("features are gone", "make them"), False, Failed(reason="features are gone", retry=False)),
        (ValueError("no"), False, Failed(reason="ValueError: no", retry=True)),
        (NonFiniteError("loss is nan", "lower it"), False, Failed(reason="loss is nan", retry=False)),
        (NonFiniteError("loss is nan", "lower it"), True, Failed(reason="loss is nan", retry=True)),
        (MemoryError("x"), False, Failed(reason="out of memory: MemoryError: x", retry=True)),
    ],
)
def test_what_an_error_in_a_trial_comes_to(error: Exception, on_gpu: bool, outcome: Any) -> None:
    made = failure(error, on_gpu=on_gpu)
    assert isinstance(made, EnvironmentFault) if outcome is EnvironmentFault else made == outcome


def test_a_callback_need_not_override_more_than_it_uses() -> None:
    class OnlyResults(TrialCallback):
        def __init__(self) -> None:
            self.finished: list[str] = []

        def on_result(self, trial_id: str, result: TrialResult) -> None:
            self.finished.append(trial_id)

    callback = OnlyResults()
    callback.on_start("t0", {}, 1)
    callback.on_progress("t0", {"epoch": 1.0})
    callback.on_result("t0", synthetic_result())
    callback.on_failure("t1", "boom", True)
    callback.on_requeue("t1")
    callback.on_poll()
    assert callback.finished == ["t0"]
