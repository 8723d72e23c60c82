"""What a trial comes to, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretovid.platform.search.study import Suggestion

OUTCOME = "outcome"
"""Key of a Tune result under which a trial's whole outcome stands as one JSON string (`launcher.py`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Why a trial's process is gone."""

    reason: str
    is_innocent: bool = False
    """It was not the trial's doing (its node was taken away): the start does not count as a failure."""


PROCESS_DIED = Cause(reason="the trial's process died, most often for lack of memory")


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedTrial:
    """A trial with a configuration of its own that runs beside the search and is never told to the study."""

    trial_id: str
    config: Mapping[str, Any]


@dataclass(slots=True)
class Hooks:
    """What the driver does when something happens to a trial. Called in the driver's main thread."""

    configure: Callable[[Suggestion], Mapping[str, Any]] = lambda suggestion: {"knobs": suggestion.knobs}
    """A suggestion to the trial's configuration."""
    objectives_of: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda result: result
    """A trial's result to its `map` and `gflops`."""
    swept_of: Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]] | None = None
    """A trial's result to the points for `ParetoStudy.tell_swept`; None: they are not told."""
    on_start: Callable[[str, Mapping[str, Any], int], None] = lambda trial_id, config, attempt: None
    """`(trial_id, config, attempt)`; `attempt` is 1 for the first start."""
    on_progress: Callable[[str, Mapping[str, float]], None] = lambda trial_id, progress: None
    on_result: Callable[[str, Mapping[str, Any], Mapping[str, Any] | None, str | None], None] = (
        lambda trial_id, config, result, error: None
    )
    """`(trial_id, config, result, None)` or `(trial_id, config, None, reason)`, once per trial."""
    on_fault: Callable[[str, str, bool], None] = lambda trial_id, reason, again: None
    """Every start that failed; `again`: there will be another one."""
    on_look: Callable[[], None] = lambda: None
    """About once a second, while trials run."""
    on_aside: Callable[[str], None] = lambda trial_id: None
    """A start that ended early because the sweep ends; the trial goes on when the sweep does."""
