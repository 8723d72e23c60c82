"""What the trials of a sweep have reached so far on validation, from its journal: as a curve over time, and in the line
of progress.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Protocol, final

from paretovid.platform.records.journal import ENDS, Entry, FailedStart, FinishedTrial, TrialClock
from paretovid.platform.storage.trial_names import confirmed_trial
from paretovid.trainables.evaluation.pareto import Reference, hypervolume, non_dominated, reference_of


class _Sender(Protocol):
    @property
    def waiting(self) -> int: ...


def _is_of_search(entry: Entry) -> bool:
    """Whether it is the end of a trial, not of a training that confirms one."""
    return entry.event == "finish" and not confirmed_trial(entry.trial)


def curve(entries: Sequence[Entry], corner: Reference | None = None) -> tuple[tuple[float, float], ...]:
    """Seconds since the first event, and the hypervolume on validation that had been reached by then.

    Arguments:
        corner: the sweep's own. The same corner holds for all times, so that the last
            value is the hypervolume of `paretovid front --split val`.
    """
    finished = [entry for entry in entries if _is_of_search(entry)]
    whole = ValidationHypervolume(finished, corner)
    so_far = ValidationHypervolume((), corner)
    found = []
    seconds, last = 0.0, entries[0].at if entries else 0.0
    for entry in entries:
        # A driver whose clock is behind the one before it began later all the same.
        seconds, last = seconds + max(0.0, entry.at - last), entry.at
        if not _is_of_search(entry):
            continue
        so_far.add(entry)
        if whole.counts(entry):
            found.append((seconds, so_far.value(whole.reference) or 0.0))
    return tuple(found)


@final
class ValidationHypervolume:
    """What the trials finished so far cover on validation, at a cost that does not grow with them.

    By the definition of `front.build_front`: when all trials have finished it is, to the last digit, the
    hypervolume of `paretovid front --split val`. That of test, which a finished sweep shows, is another figure, and
    nobody looks at it while a sweep runs.
    """

    def __init__(self, entries: Iterable[Entry] = (), corner: Reference | None = None) -> None:
        self._corner = corner
        self._trials: dict[str, FinishedTrial] = {}
        self._fronts: dict[bool, tuple[tuple[float, float], ...]] = {}
        """Of the method, and of the baselines that can be deployed."""
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """A trial has finished. One that was trained again counts as it is now."""
        is_again = entry.trial in self._trials
        self._trials[entry.trial] = finished = FinishedTrial.in_entry(entry)
        if is_again:
            self._fronts.clear()
        for each in self._trials.values() if is_again else (finished,):
            if each.is_baseline and not each.deployable:
                continue
            points = [*self._fronts.get(each.is_baseline, ()), *each.front]
            kept = non_dominated([gflops for _, gflops in points], [quality for quality, _ in points])
            self._fronts[each.is_baseline] = tuple(points[i] for i in kept)

    def counts(self, entry: Entry) -> bool:
        """Whether this finished trial's points are among those that could be on the front."""
        finished = self._trials[entry.trial]
        return not finished.is_baseline if False in self._fronts else finished.deployable

    @property
    def reference(self) -> Reference:
        """The corner that it is measured from."""
        most_gflops = max((each.most_gflops for each in self._trials.values()), default=0.0)
        return reference_of([self._corner], most_gflops)

    def value(self, reference: Reference | None = None) -> float | None:
        """In GFLOPs times the objective (fraction); None before a trial has finished. Of the baselines alone as long
        as nothing else has."""
        points = self._fronts.get(False) or self._fronts.get(True)
        if not points:
            return None
        costs, qualities = [gflops for _, gflops in points], [quality for quality, _ in points]
        return hypervolume(costs, qualities, reference or self.reference)


@final
class LiveStatus:
    """The same in one line, kept up to date by the driver as things happen, at a cost that does not grow."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._clock = TrialClock()
        self._running: set[str] = set()
        self._failed: set[str] = set()
        self._stopped: set[str] = set()
        self._reached = ValidationHypervolume()
        for entry in entries:
            self.add(entry)
        self._running.clear()  # of drivers that are gone

    def add(self, entry: Entry) -> None:
        """Something has happened."""
        self._clock.add(entry)
        if entry.event == "start":
            self._running.add(entry.trial)
            self._failed.discard(entry.trial)  # one that is started again after all
        elif entry.event in ENDS:
            self._running.discard(entry.trial)
            if entry.event == "fault" and not FailedStart.in_entry(entry).will_retry:
                self._failed.add(entry.trial)
        if entry.event == "stopped":
            self._stopped.add(entry.trial)
        if _is_of_search(entry):
            self._reached.add(entry)

    def line(self, sender: _Sender) -> str:
        """For the line of progress."""
        cpu_hours, gpu_hours = self._clock.hours(time.time())
        parts = [f"{len(self._running)} running"]
        if self._stopped:
            parts.append(f"{len(self._stopped)} stopped")
        if self._failed:
            parts.append(f"{len(self._failed)} failed")
        if (area := self._reached.value()) is not None:
            parts.append(f"validation hypervolume {area:.4f}")
        parts.append(f"{gpu_hours:.2f} GPU-h" if gpu_hours else f"{cpu_hours:.2f} CPU-h")
        if sender.waiting > 50:
            parts.append(f"MLflow {sender.waiting} behind")
        return ", ".join(parts)
