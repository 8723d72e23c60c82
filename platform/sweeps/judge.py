"""The driver's end of early stopping: judges trials at their rungs, each rung of each trial once.

A trial writes what it has measured (`learning.json`) and goes on when it is not judged soon. What is decided goes into
the journal first, then into the trial's folder (`judgement.json`), where the trial finds it: a driver that is killed in
between decides nothing anew, it only writes the second of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import final

from paretovid.platform.records.journal import Entry
from paretovid.platform.records.judgement import Judgement, read_judgements, stopped_at, write_judgements
from paretovid.platform.records.learning import read_learning
from paretovid.platform.search.rungs import Curve, compared
from paretovid.platform.storage.home import SweepPaths
from paretovid.trainables.context import Rung
from paretovid.trainables.errors import ParetovidError
from paretovid.trainables.evaluation.pareto import non_dominated

_AT_ONCE, _AT_ONCE_IN_A_BUCKET = 64, 8
"""Running trials that are looked at in one call, by turns: each is a file to read, in a bucket a request."""


@final
class RungJudge:
    """Judges the trials of one sweep.

    Arguments:
        record: takes an event and what there is to say of it, as `SweepJournal.write` does.
        rungs: shares of the epochs; none: nobody is judged.
        keep: the share that goes on.
        is_exempt: whether a trial goes on whatever its curve is.
        entries: the sweep's journal so far.
    """

    def __init__(
        self,
        sweep: SweepPaths,
        record: Callable[..., None],
        *,
        rungs: Collection[float],
        keep: float,
        is_exempt: Callable[[str], bool],
        entries: Iterable[Entry] = (),
    ) -> None:
        self._sweep = sweep
        self._record = record
        self._rungs = tuple(sorted(rungs))
        self._keep = keep
        self._is_exempt = is_exempt
        self._curves: dict[float, dict[str, Curve]] = {}
        """Rung to the curves that were measured there, by trial, in their order."""
        self._judged: dict[str, dict[float, Judgement]] = {}
        self._written: set[str] = set()
        self._at_once = _AT_ONCE_IN_A_BUCKET if sweep.store.is_remote else _AT_ONCE
        self._turn = 0
        for entry in entries:
            if entry.event == "rung":
                self._remember(
                    entry.trial, Judgement.from_json(entry.fields), entry.fields.pairs("curve", ())
                )

    def poll(self, running: Iterable[str]) -> None:
        """Judges those of the running trials that have come to a rung. Cheap; to be called about once a second."""
        open_ones = [trial for trial in running if self._is_open(trial)] if self._rungs else []
        first = self._turn % len(open_ones) if open_ones else 0
        self._turn = first + self._at_once
        for trial in [*open_ones[first:], *open_ones[:first]][: self._at_once]:
            # A folder that cannot be read for a moment is read the next time; the trial goes on meanwhile.
            with contextlib.suppress(OSError, ParetovidError):
                self._look(trial)

    def _is_open(self, trial: str) -> bool:
        """Whether there may be something to judge or to write."""
        return trial not in self._written or len(self._judged.get(trial, ())) < len(self._rungs)

    def ended(self, trial: str, epoch: int) -> None:
        """A trial that was judged out has ended at this epoch."""
        judgements = tuple(self._judged.get(trial, {}).values())
        with contextlib.suppress(OSError):  # then it counts from the rung
            write_judgements(self._sweep.trial(trial), judgements, epoch)

    def _look(self, trial: str) -> None:
        paths = self._sweep.trial(trial)
        judged = self._judged.setdefault(trial, {})
        learning = read_learning(paths)
        rungs = () if learning is None else learning.rungs
        waiting = [rung for rung in rungs if rung.share in self._rungs and rung.share not in judged]
        if waiting or (judged and trial not in self._written):
            # What a driver before this one has decided holds, whatever became of its journal.
            known: Mapping[float, Judgement] = {each.share: each for each in read_judgements(paths)}
            epochs = 0 if learning is None else learning.epochs
            for rung in sorted(waiting, key=lambda each: each.share):
                self._judge(trial, rung, epochs, known.get(rung.share))
            stopped = stopped_at(paths) if known else None
            ended_at = None if stopped is None or stopped.epoch == stopped.rung else stopped.epoch
            write_judgements(paths, tuple(judged.values()), ended_at)
            self._written.add(trial)

    def _judge(self, trial: str, rung: Rung, epochs: int, known: Judgement | None) -> None:
        kept = non_dominated([cost for _, cost in rung.points], [quality for quality, _ in rung.points])
        curve = tuple(rung.points[i] for i in kept)
        judgement = known or self._decided(trial, rung, epochs, curve)
        found = {} if known is None else {"found": True}
        self._record(
            "rung", trial=trial, **judgement.to_json(), curve=[list(pair) for pair in curve], **found
        )
        self._remember(trial, judgement, curve)

    def _decided(self, trial: str, rung: Rung, epochs: int, curve: Curve) -> Judgement:
        others = [each for name, each in self._curves.get(rung.share, {}).items() if name != trial]
        found = compared(curve, others, self._keep)
        return Judgement(
            share=rung.share,
            epoch=rung.epoch,
            epochs=epochs,
            goes_on=found is None or found.goes_on or self._is_exempt(trial),
            others=len(others),
            excess=None if found is None or not curve else found.excess,
            place=None if found is None else found.place,
        )

    def _remember(self, trial: str, judgement: Judgement, curve: Curve) -> None:
        self._judged.setdefault(trial, {})[judgement.share] = judgement
        self._curves.setdefault(judgement.share, {})[trial] = curve
