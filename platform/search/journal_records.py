"""What the lines of an Optuna journal are worth: the whole ones as they are, and what stands in for damaged ones.

Optuna gives up a journal, with all studies in it, for one line that it cannot read. And it numbers studies and trials
by counting the records that made them: one of those left out would give every later trial of every study the number
of another. So a lost line costs what it said, and no more:

* one that made a trial or a study is replaced by a record that makes an empty one, which the following lines fill;
* any other is left out.

Whether an unreadable line made something is told from what can be read of it, else from the lines that follow: they
speak of a trial that nobody has made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias, final

from optuna.distributions import json_to_distribution
from optuna.trial import TrialState

from paretovid.platform.console.warnings import say_on_stderr

Record: TypeAlias = dict[str, Any]

_CREATE_STUDY, _DELETE_STUDY, _STUDY_USER, _STUDY_SYSTEM, _CREATE_TRIAL, _PARAM, _STATE, _STEP = range(8)
_TRIAL_USER, _TRIAL_SYSTEM, _DISCARD = 8, 9, 10
"""Optuna's numbers of operations, as they stand in journals."""
_NOBODY = "paretovid-damaged-line"
_SHORTEST_CREATION_BYTES = 100
_DIRECTIONS = (2, 1)
"""Maximised and minimised: of every study that paretovid makes."""


class _DamagedError(ValueError):
    """A record that Optuna would not understand."""


@dataclass(kw_only=True, slots=True)
class _Gap:
    """Damage that does not say what was there."""

    place: int
    """In the records of this reading: what it made belongs before them."""
    room: int
    """How many records may have been lost in it."""


@dataclass(kw_only=True, slots=True)
class _Made:
    """Which studies and trials there are, counted as Optuna counts them."""

    studies: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Number to name and number of objectives."""
    next_study: int = 0
    trials: list[int] = field(default_factory=list)
    """Of each trial the study, in the order of their numbers."""

    def copy(self) -> _Made:
        return _Made(studies=dict(self.studies), next_study=self.next_study, trials=list(self.trials))

    def count(self, record: Record) -> None:
        operation = record["op_code"]
        if operation == _CREATE_STUDY:
            if record["study_name"] not in [name for name, _ in self.studies.values()]:
                self.studies[self.next_study] = (record["study_name"], len(record["directions"]))
                self.next_study += 1
        elif operation == _DELETE_STUDY:
            self.studies.pop(record["study_id"], None)
        elif operation == _CREATE_TRIAL and record["study_id"] in self.studies:
            self.trials.append(record["study_id"])


@final
class JournalRecords:
    """Turns what a journal holds into records that Optuna can apply, in their order.

    Arguments:
        where: the journal, for messages.
        unit: what its parts are called there: `line`.
        parse: the records in one part. A damaged one may raise whatever reading JSON raises.
        say: told the numbers of damaged parts.
    """

    def __init__(
        self,
        where: str,
        unit: str,
        parse: Callable[[bytes], list[Record]],
        say: Callable[[str], None] = say_on_stderr,
    ) -> None:
        self._where = where
        self._unit = unit
        self._parse = parse
        self._say = say
        self._made = _Made()
        self._made_before = _Made()
        self._whole: list[Record] = []
        self.num_damaged = 0
        """Parts that could not be read so far."""
        self._study_of_worker: dict[str, int] = {}

    def take(self, parts: Iterable[tuple[int, bytes]]) -> list[Record]:
        """The records of the next parts of the journal, with their numbers in it. An empty part is a lost one."""
        damaged: list[int] = []
        found: list[tuple[int, bytes, Record | None]] = []
        for number, content in parts:
            kept = content.strip(b"\0\r\n\t ")
            if len(content.strip(b"\r\n\t ")) > len(kept) or not content:
                found.append((number, content[: len(content) - len(kept)], None))
            if kept:
                found += self._read(number, kept)
        self._whole = [record for _, _, record in found if record is not None]
        for each in self._whole:
            if "study_id" in each:
                self._study_of_worker.setdefault(each["worker_id"], each["study_id"])
        records: list[Record] = []
        gaps: list[_Gap] = []
        self._made_before = self._made.copy()
        for number, content, record in found:
            if record is None or not self._fits(record):
                damaged.append(number)
                self._stand_in(number, content, records, gaps)
            else:
                self._fill(record, records, gaps)
                self._add(record, records)
        self._whole = []
        self.num_damaged += len(damaged)
        if damaged:
            numbers = ", ".join(str(each) for each in sorted(set(damaged)))
            self._say(f"{self._where}: {self._unit} {numbers} cannot be read and is left out")
        return records

    def _read(self, number: int, content: bytes) -> list[tuple[int, bytes, Record | None]]:
        try:
            records = self._parse(content)
            for record in records:
                _check(record)
        except (
            ArithmeticError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError
        ):  # fmt: skip
            return [(number, content, None)]
        return [(number, content, record) for record in records]

    def _fits(self, record: Record) -> bool:
        """Whether a trial's result has as many values as its study has objectives."""
        values = record.get("values") if record["op_code"] == _STATE else None
        if values is None or record["trial_id"] >= len(self._made.trials):
            return True
        study = self._made.studies.get(self._made.trials[record["trial_id"]])
        return study is None or len(values) == study[1]

    def _stand_in(self, number: int, content: bytes, records: list[Record], gaps: list[_Gap]) -> None:
        """What takes the place of a damaged part, as far as it says itself what it was."""
        text = content.decode(errors="replace")
        operation = _number(text, "op_code")
        if operation == _CREATE_STUDY:
            name = re.search(r'"study_name":\s*"([^"\\]+)"', text)
            self._add(_new_study(name[1] if name else f"{self._unit} {number}"), records)
        elif operation == _CREATE_TRIAL:
            study = _number(text, "study_id")
            if study is None:
                worker = re.search(r'"worker_id":\s*"([^"\\]+)"', text)
                study = self._study_of_worker.get(worker[1]) if worker else None
            if study in self._made.studies:
                self._add(_new_trial(study), records)
            else:
                gaps.append(_Gap(place=len(records), room=1))
        elif operation is None:
            gaps.append(_Gap(place=len(records), room=1 + len(content) // _SHORTEST_CREATION_BYTES))

    def _fill(self, record: Record, records: list[Record], gaps: list[_Gap]) -> None:
        """Makes what the record speaks of and nobody has made, where it may have been lost."""
        while gaps and record.get("study_id", -1) >= self._made.next_study:
            self._insert(_new_study(f"{self._unit} lost, study {self._made.next_study}"), records, gaps)
        while gaps and self._speaks_of_another(record):
            study = self._owner(records, gaps[0])
            if study not in self._made.studies:
                return
            self._insert(_new_trial(study), records, gaps)

    def _speaks_of_another(self, record: Record) -> bool:
        """Whether its trial is not there, or is one of another study than that of whoever wrote it."""
        trial = record.get("trial_id", -1)
        if trial >= len(self._made.trials):
            return True
        own = self._study_of_worker.get(record["worker_id"])
        return trial >= 0 and own is not None and self._made.trials[trial] != own

    def _owner(self, records: list[Record], gap: _Gap) -> int | None:
        """The study of the trial that was made in a gap: that of whoever speaks of it, else of who wrote beside."""
        before = self._made_before.copy()
        for each in records[: gap.place]:
            before.count(each)
        speaking = [each for each in self._whole if each.get("trial_id") == len(before.trials)]
        beside = [*records[gap.place :][:1], *records[: gap.place][-1:]]
        studies = (self._study_of_worker.get(each["worker_id"]) for each in [*speaking, *beside])
        return next((study for study in studies if study is not None), None)

    def _add(self, record: Record, records: list[Record]) -> None:
        records.append(record)
        self._made.count(record)

    def _insert(self, record: Record, records: list[Record], gaps: list[_Gap]) -> None:
        """Puts a record where one was lost, and numbers all that follow it in this reading anew."""
        gap = gaps[0]
        records.insert(gap.place, record)
        gap.room -= 1
        for each in gaps:
            each.place += 1
        if not gap.room:
            gaps.pop(0)
        self._made = self._made_before.copy()
        for each_record in records:
            self._made.count(each_record)


def _number(text: str, field: str) -> int | None:
    """The field's number, if the text has the field once: two lines in one say nothing that is certain."""
    found = re.findall(rf'"{field}":\s*(\d{{1,9}})\b', text)
    return int(found[0]) if len(found) == 1 else None


def _new_study(name: str) -> Record:
    return {
        "op_code": _CREATE_STUDY,
        "worker_id": _NOBODY,
        "study_name": name,
        "directions": list(_DIRECTIONS),
    }


def _new_trial(study: int | None) -> Record:
    return {"op_code": _CREATE_TRIAL, "worker_id": _NOBODY, "study_id": study, "datetime_start": None}


def _check(record: Any) -> None:
    """Raises, of several kinds, for a record that Optuna would not understand or that would spoil its study."""
    operation = record["op_code"]
    _demand(type(operation) is int and _CREATE_STUDY <= operation <= _DISCARD)
    _demand(isinstance(record["worker_id"], str))
    if operation == _CREATE_STUDY:
        _demand(isinstance(record["study_name"], str) and bool(record["directions"]))
        _demand(all(direction in (0, 1, 2) for direction in record["directions"]))
    elif operation in (_DELETE_STUDY, _STUDY_USER, _STUDY_SYSTEM, _CREATE_TRIAL):
        _demand_id(record["study_id"])
    elif operation != _DISCARD:
        _demand_id(record["trial_id"])
    if operation in (_STUDY_USER, _TRIAL_USER):
        _demand(len(record["user_attr"].items()) == 1)
    elif operation in (_STUDY_SYSTEM, _TRIAL_SYSTEM):
        _demand(len(record["system_attr"].items()) == 1)
    elif operation == _CREATE_TRIAL:
        _check_trial(record)
    elif operation == _PARAM:
        _demand(isinstance(record["param_name"], str))
        _check_value(record["distribution"], record["param_value_internal"])
    elif operation == _STATE:
        _check_state(record)
    elif operation == _STEP:
        _demand(isinstance(record["step"], int) and "intermediate_value" in record)


def _check_trial(record: Record) -> None:
    state = TrialState(record.get("state", TrialState.RUNNING.value))
    if record["datetime_start"] is not None:
        datetime.fromisoformat(record["datetime_start"])
    if "datetime_complete" in record:
        datetime.fromisoformat(record["datetime_complete"])
    kinds = record.get("distributions", {})
    for name, value in record.get("params", {}).items():
        _check_value(kinds[name], value)
    _demand(isinstance(record.get("user_attrs", {}), dict))
    _demand(isinstance(record.get("system_attrs", {}), dict))
    values = record.get("values") or [record.get("value")]
    if state == TrialState.COMPLETE:
        _demand_finite(values)
    for step in record.get("intermediate_values", {}):
        int(step)


def _check_state(record: Record) -> None:
    state = TrialState(record["state"])
    if state == TrialState.RUNNING:
        datetime.fromisoformat(record["datetime_start"])
    if state.is_finished():
        datetime.fromisoformat(record["datetime_complete"])
    if state == TrialState.COMPLETE:
        _demand_finite(record["values"])
    else:
        _demand(record["values"] is None)


def _check_value(kind: str, value: Any) -> None:
    _demand_finite([value])
    json_to_distribution(kind).to_external_repr(value)


def _demand_finite(values: Any) -> None:
    _demand(isinstance(values, list) and bool(values))
    _demand(all(not isinstance(value, bool) and math.isfinite(value) for value in values))


def _demand_id(value: Any) -> None:
    _demand(type(value) is int and 0 <= value < 2**53)


def _demand(is_right: bool) -> None:
    if not is_right:
        raise _DamagedError
