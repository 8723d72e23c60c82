"""`sweep.json`: what a sweep is (its configuration, its name) and how far it says it is.

A file without a version is of version 1, which had the same fields, fewer of them required. Of fields that say how a
sweep ended, only those that it has are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from paretovid.platform.storage.home import SWEEP_FILE, SweepPaths
from paretovid.platform.storage.home_paths import from_home, to_home
from paretovid.search_spaces.plans import UNNAMED_PLAN, trainings_of
from paretovid.search_spaces.schema import ADDED, RENAMED
from paretovid.trainables.data.dataset import write_json
from paretovid.trainables.documents import Fields, JsonObject, JsonValue
from paretovid.trainables.errors import DataError, UnknownNameError, unknown_name
from paretovid.trainables.evaluation.pareto import Reference
from paretovid.trainables.redaction.texts import redacted
from paretovid.trainables.redaction.urls import recorded_settings, recorded_url

VERSION = 2
_HINT = "Restore the file from a copy, or remove the sweep's folder and start the sweep again."

SweepState = Literal["running", "interrupted", "failed", "out_of_time", "finished"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReference:
    """The corner that a finished sweep's hypervolume was measured from, and of which quality."""

    objective: str
    corner: Reference

    def to_json(self) -> dict[str, float]:
        """Plain data, the quality under the name of its objective; `from_json` reads it."""
        return self.corner.to_json(self.objective)

    @classmethod
    def from_json(cls, data: Fields) -> SweepReference | None:
        """What `to_json` wrote; None for a corner without a cost, which is none."""
        if "gflops" not in data:
            return None
        objective = next((name for name in data.names() if name != "gflops"), "map")
        corner = Reference(quality=data.number(objective, 0.0), gflops=data.number("gflops"))
        return cls(objective=objective, corner=corner)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRecord:
    """The content of `sweep.json`. Changed with `dataclasses.replace` and written as a whole."""

    name: str
    uid: str
    """Tells it from sweeps of this name in other homes, where a store is shared with them. Empty in records from
    before there was one."""
    method: str
    data: str
    """The data set's name."""
    created: str
    """When it was first started, ISO 8601."""
    seed: int
    state: SweepState
    config: JsonObject
    """The resolved configuration that it was started with: `SweepConfig` as plain data, perhaps of an earlier version,
    with settings called as today and URLs without what is secret in them."""
    code_version: str
    knobs: tuple[str, ...]
    """Names of the knobs that the study searches."""
    asked: tuple[int, ...] = ()
    """How its number of trials came about, if `paretovid extend` has raised it: `(16, 8)`."""
    trainings: int | None = None
    """How many trials the search has started, once it has ended and their number followed from their lengths."""
    confirmations: Mapping[str, int] = field(default_factory=dict)
    """Operating points that are to be confirmed, by id, and by trainings with how many other seeds."""
    study: str | None = None
    """Where its study is kept: `home`, or the URL of a database without a password. None: not decided yet."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Trials that have failed for good, with their reasons, as of its last end."""
    hypervolume: float | None = None
    """On test, of a sweep that has come to its end: GFLOPs times quality (a fraction)."""
    reference: SweepReference | None = None
    """What the hypervolume is measured from."""
    tracked: bool | None = None
    """Whether MLflow has been notified of everything; None before the end."""
    error: str | None = None
    """Why it failed or was interrupted."""

    @property
    def corner(self) -> Reference | None:
        """The sweep's own reference corner; None while it has none."""
        return None if self.reference is None else self.reference.corner

    @property
    def searched_trials(self) -> int:
        """Trials of the search that are asked for, extensions included, baselines not. Of one that searches their
        lengths it is known when it has ended; before, as many as there would be if all were of the method's own."""
        trials = sum(self.asked) or self._section("search").whole("trials", 0)
        plan = self._section("search").text("plan", UNNAMED_PLAN)
        if plan == "wide" and self.trainings is not None:
            return self.trainings
        return trainings_of(plan, trials) if trials else 0

    @property
    def baselines(self) -> int:
        """How many baselines are asked for."""
        return len(self._config.list_of_fields("baselines", ()))

    @property
    def tracking_uri(self) -> str | None:
        """The MLflow store that it was started with; None: the one under home."""
        return self._text("tracking", "uri")

    @property
    def study_storage(self) -> str | None:
        """`search.storage` that it was started with; None: the variable, or under home."""
        return self._text("search", "storage")

    @property
    def _config(self) -> Fields:
        return Fields(self.config, f"{SWEEP_FILE} of {self.name}: config", _HINT)

    def _section(self, name: str) -> Fields:
        return self._config.fields(name, {})

    def _text(self, section: str, name: str) -> str | None:
        fields = self._section(section)
        return fields.text(name) if name in fields else None

    def to_json(self) -> dict[str, JsonValue]:
        """The content of the file; `from_json` reads it."""
        ended: dict[str, JsonValue] = {
            "asked": list(self.asked) or None,
            "trainings": self.trainings,
            "confirmations": dict(self.confirmations) or None,
            "study": None if self.study is None else recorded_url(self.study),
            "failures": {trial: redacted(reason) for trial, reason in self.failures.items()},
            "hypervolume": self.hypervolume,
            "reference": None if self.reference is None else self.reference.to_json(),
            "tracked": self.tracked,
            "error": None if self.error is None else redacted(self.error),
        }
        return {
            "version": VERSION,
            "name": self.name,
            "uid": self.uid,
            "method": self.method,
            "data": self.data,
            "created": self.created,
            "seed": self.seed,
            "state": self.state,
            "config": recorded_settings(self.config),
            "code_version": self.code_version,
            "knobs": list(self.knobs),
            **{name: value for name, value in ended.items() if value is not None},
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> SweepRecord:
        """What `to_json` wrote, or a file of an earlier version.

        Arguments:
            where: the file, for messages.

        Raises `DataError` for a later version and for a field that is missing or wrong, `NonFiniteError` for a number
        that is not finite.
        """
        fields = Fields(data, where, _HINT)
        is_first = fields.check_version(VERSION) == 1
        unknown = "" if is_first else None
        state = fields.text("state")
        if state not in get_args(SweepState):
            raise DataError(
                f"{where}: state cannot be {state!r}", f"It is {', '.join(get_args(SweepState))}."
            )
        return cls(
            name=fields.text("name"),
            uid=fields.text("uid", unknown),
            method=fields.text("method", unknown),
            data=fields.text("data", unknown),
            created=fields.text("created", unknown),
            seed=fields.whole("seed", 0 if is_first else None),
            state=state,  # type: ignore[arg-type]  # is one of them
            config=recorded_settings(_with_todays_names(fields.json("config"))),
            code_version=fields.text("code_version", unknown),
            knobs=fields.texts("knobs", () if is_first else None),
            asked=fields.wholes("asked", ()),
            trainings=fields.whole("trainings") if "trainings" in fields else None,
            confirmations={point: int(n) for point, n in fields.amounts_by_name("confirmations").items()}
            if "confirmations" in fields
            else {},
            study=fields.optional_text("study"),
            failures=fields.text_by_name("failures", {}),
            hypervolume=fields.optional_number("hypervolume"),
            reference=SweepReference.from_json(fields.fields("reference", {})),
            tracked=fields.flag("tracked") if "tracked" in fields else None,
            error=fields.optional_text("error"),
        )


def _with_todays_names(config: JsonObject) -> JsonObject:
    """A configuration of any version with the settings called as today, and with those that it was made before."""
    changed = dict(config)
    for former, today in RENAMED.items():
        section, _, old = former.partition(".")
        settings = changed.get(section)
        if isinstance(settings, Mapping) and old in settings:
            new = today.rpartition(".")[2]
            changed[section] = {new if key == old else key: value for key, value in settings.items()}
    for name, value in ADDED.items():
        section, _, key = name.partition(".")
        settings = changed.get(section)
        if isinstance(settings, Mapping) and key not in settings:
            changed[section] = {**settings, key: value}
    return changed


def read_record(sweep: SweepPaths) -> SweepRecord | None:
    """The record of a sweep; None if there is none, or half of one: its sweep can be started anew.

    Raises `DataError` for a whole one that cannot be understood, `ObjectStoreError` if its bucket does not answer.
    """
    found = sweep.store.read_document(sweep.record, must_answer=True)
    if found is None:
        return None
    return SweepRecord.from_json(from_home(found, sweep.home_root), str(sweep.record))


def write_record(sweep: SweepPaths, record: SweepRecord) -> None:
    """Replaces `sweep.json`. Paths in the home are written relative to it."""
    write_json(sweep.record, to_home(record.to_json(), sweep.home_root))
    sweep.store.upload_file(sweep.record)


def known_record(sweep: SweepPaths) -> SweepRecord:
    """The record of a sweep.

    Raises `UnknownNameError` if there is none, naming the others, `DataError` for one that cannot be read.
    """
    record = read_record(sweep)
    if record is not None:
        return record
    names = sweep.siblings()
    if sweep.record.is_file():
        raise DataError(
            f"{sweep.record} is damaged",
            f"Write it again with the command that the sweep was started with, and name={sweep.name}.",
        )
    error = unknown_name("sweep", sweep.name, names)
    raise UnknownNameError(error.message, f"{error.hint} `paretovid sweeps` lists them.")
