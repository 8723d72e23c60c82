"""`judgement.json`: what the driver has decided at a trial's rungs, and which trials were stopped there.

Written by the driver before the trial hears of it, and read by whoever resumes either: a rung is judged once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from paretovid.platform.storage.home import SweepPaths, TrialPaths
from paretovid.trainables.documents import Fields, JsonValue
from paretovid.trainables.errors import DataError

VERSION = 1
_HINT = "Another version of paretovid may be at work on this sweep: let it end first. If none is, remove the file."


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What was decided at one rung of one trial."""

    share: float
    """The rung, as a share of the training's epochs."""
    epoch: int
    """Epochs that the trial had trained."""
    epochs: int
    """Of its whole training."""
    goes_on: bool
    others: int
    """Trials that had been measured at this rung before it."""
    excess: float | None = None
    """How far its curve lay above the median of the others' at equal cost, a fraction; None: it was not compared."""
    place: int | None = None
    """By excess, 1 for the best of it and the others; None: it was not compared."""

    def to_json(self) -> dict[str, JsonValue]:
        """Plain data; `from_json` reads it."""
        return {
            "share": self.share,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "goes_on": self.goes_on,
            "others": self.others,
            "excess": self.excess,
            "place": self.place,
        }

    @classmethod
    def from_json(cls, fields: Fields) -> Judgement:
        """What `to_json` wrote. Raises `DataError` for a field that is missing or wrong."""
        return cls(
            share=fields.number("share"),
            epoch=fields.count("epoch"),
            epochs=fields.count("epochs"),
            goes_on=fields.flag("goes_on"),
            others=fields.count("others"),
            excess=fields.optional_number("excess"),
            place=fields.count("place") if "place" in fields else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StoppedTrial:
    """A trial that was judged out and has no result."""

    trial: str
    epoch: int
    """Where it ended; that of the rung, if its driver died before it heard of that."""
    rung: int
    """The epoch at which it was measured for the judgement."""
    epochs: int
    """Of its whole training."""

    @property
    def saved_epochs(self) -> int:
        """Epochs that were not trained."""
        return self.epochs - self.epoch

    def __str__(self) -> str:
        return f"{self.trial} was stopped at epoch {self.epoch} of {self.epochs}"

    def to_json(self) -> dict[str, JsonValue]:
        """Plain data, for `--json`."""
        return {"trial": self.trial, "epoch": self.epoch, "rung": self.rung, "epochs": self.epochs}


def read_judgements(trial: TrialPaths) -> tuple[Judgement, ...]:
    """What was decided at a trial's rungs, in their order; nothing where there is no file, or half of one.

    Raises `DataError` for a whole file that cannot be understood, such as one of a later version.
    """
    fields = _content(trial)
    return () if fields is None else tuple(map(Judgement.from_json, fields.list_of_fields("rungs")))


def _content(trial: TrialPaths) -> Fields | None:
    found = trial.store.read_document(trial.judgement)
    if found is None:
        return None
    fields = Fields(found, str(trial.judgement), _HINT)
    fields.check_version(VERSION)
    return fields


def write_judgements(trial: TrialPaths, judgements: Sequence[Judgement], ended_at: int | None = None) -> None:
    """Replaces `judgement.json`.

    Arguments:
        ended_at: epochs that a trial had trained when it heard that it was judged out, if it has.
    """
    content: dict[str, JsonValue] = {"version": VERSION, "rungs": [each.to_json() for each in judgements]}
    if ended_at is not None:
        content["ended_at"] = ended_at
    trial.folder.mkdir(parents=True, exist_ok=True)
    trial.store.write_text(trial.judgement, json.dumps(content, allow_nan=False))


def is_judged_out(judgements: Sequence[Judgement]) -> bool:
    """Whether a trial is not trained to its end."""
    return not all(each.goes_on for each in judgements)


def stopped_at(trial: TrialPaths) -> StoppedTrial | None:
    """Where a trial was judged out; None if it was not. Raises as `read_judgements`."""
    last = next((each for each in read_judgements(trial) if not each.goes_on), None)
    fields = _content(trial)
    if last is None or fields is None:
        return None
    ended_at = fields.count("ended_at") if "ended_at" in fields else last.epoch
    return StoppedTrial(trial=trial.name, epoch=ended_at, rung=last.epoch, epochs=last.epochs)


def stopped_trials(sweep: SweepPaths) -> tuple[StoppedTrial, ...]:
    """The trials that were stopped, as far as this machine has their documents, by name. One that had come to its end
    before it heard of its judgement has a result, and is none of them; one that failed for good neither."""
    others = {trial.name for trial in (*sweep.with_result(), *sweep.with_failure())}
    found = []
    for trial in sweep.with_judgement():
        if trial.name in others:
            continue
        try:
            stopped = stopped_at(trial)
        except DataError:  # another version's, which knows what it says
            continue
        if stopped is not None:
            found.append(stopped)
    return tuple(found)


def stopped_text(stopped: Sequence[StoppedTrial], searched: int) -> str:
    """In a few words, of at least one: `4 of 16 stopped at rung 10 of 40: saved 120 epochs`.

    Arguments:
        searched: trials of the search that were asked for.
    """
    rungs = sorted({(each.rung, each.epochs) for each in stopped})
    where = ", ".join(f"{rung} of {epochs}" for rung, epochs in rungs[:3])
    saved = sum(each.saved_epochs for each in stopped)
    name = f"rung {where}" if len(rungs) == 1 else f"rungs {where}" if len(rungs) <= 3 else "rungs"
    return f"{len(stopped)} of {searched} stopped at {name}: saved {saved} epochs"
