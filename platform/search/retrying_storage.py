"""An Optuna storage that waits for its database when that is away, instead of ending the sweep.

A call that the connection was lost in may have been carried out all the same: its answer is what was lost. Calls
that would do harm if they were repeated are looked up first. That is exact because a study has one writer, the
driver that holds the sweep's lock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar, final

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from paretovid.platform.console.warnings import say_on_stderr
from paretovid.trainables.errors import ParetovidError

PATIENCE_SECONDS = 120.0
"""How long a sweep waits for its database before it stops, to be resumed later."""
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0

_WRONG_STATEMENTS = (IntegrityError, DataError, ProgrammingError, NotSupportedError)
"""What another try would raise again."""
_CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""Of libpq, in seconds; the last in milliseconds."""
_STARTING = re.compile(
    "the database system is (starting up|shutting down|in recovery mode|not (yet )?accepting)"
)
_T = TypeVar("_T")


class StudyStorageError(ParetovidError):
    """The database of the studies is away for longer than a sweep waits."""


def is_connection_lost(error: BaseException) -> bool:
    """Whether another try may succeed once the database is back."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, _WRONG_STATEMENTS):
        return bool(cause.connection_invalidated)
    # Besides what it calls operational, a server that goes down in the middle of an answer makes psycopg2, SQLAlchemy
    # too, raise many kinds: a bare DatabaseError ("error with status PGRES_TUPLES_OK and no message from the libpq"), a
    # transaction that is aborted or must be rolled back. A fault that is none of the connection's is raised later.
    return isinstance(cause, SQLAlchemyError)


def open_patiently(url: str, where: str, say: Callable[[str], None] = say_on_stderr) -> BaseStorage:
    """Optuna's storage in a PostgreSQL database, whose tables it makes, with the patience of later calls.

    One that cannot be reached to begin with is another matter than one that has answered and is away: its URL may be
    wrong, and the driver's error is raised at once. A server that says that it is starting is there.

    Arguments:
        where, say: as of `PatientStorage`.

    Raises `StudyStorageError` after `PATIENCE_SECONDS`, and what SQLAlchemy raises.
    """
    # A connection that the server has closed since its last use is noticed before it is used.
    engine = create_engine(url, pool_pre_ping=True, connect_args=_CONNECTION)
    try:
        _patiently(lambda: engine.connect().close(), where, say, is_passing=_is_starting)
    finally:
        engine.dispose()
    settings = {"pool_pre_ping": True, "connect_args": _CONNECTION}
    storage = _patiently(lambda: optuna.storages.RDBStorage(url, engine_kwargs=settings), where, say)
    return PatientStorage(optuna.storages.get_storage(storage), where, say)


def _is_starting(error: BaseException) -> bool:
    # A refused connection has no code in psycopg2, only the server's words.
    return isinstance(error, OperationalError) and _STARTING.search(str(error.orig)) is not None


def _patiently(
    call: Callable[[], _T],
    where: str,
    say: Callable[[str], None],
    done_already: Callable[[], _T | None] = lambda: None,
    is_passing: Callable[[BaseException], bool] = is_connection_lost,
) -> _T:
    """The answer of `call`. After a lost connection, `done_already` is asked for it first."""
    until = 0.0
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            answer = done_already() if until else None
            if answer is None:
                answer = call()
        except (StorageInternalError, DBAPIError) as error:
            if not is_passing(error):
                raise
            now = time.monotonic()
            if not until:
                until = now + PATIENCE_SECONDS
                say(f"the studies at {where} are away; waiting")
            if now > until:
                raise StudyStorageError(
                    f"the studies at {where} have been away for {PATIENCE_SECONDS:.0f} s",
                    "Start the database, then resume: `paretovid resume SWEEP`. Nothing of what was done is lost.",
                ) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            continue
        if until:
            say("the studies are back")
        return answer


@final
class PatientStorage(BaseStorage):
    """Passes every call on, again and again while the database is away.

    Arguments:
        storage: the one to call, with one writer per study.
        where: what to call it in messages; no password.
        say: called once when it is away and once when it is back.

    Raises `StudyStorageError` after `PATIENCE_SECONDS`.
    """

    def __init__(self, storage: BaseStorage, where: str, say: Callable[[str], None] = say_on_stderr) -> None:
        self._storage = storage
        self._where = where
        self._say = say

    def _call(self, call: Callable[[], _T], done_already: Callable[[], _T | None] = lambda: None) -> _T:
        """The answer of `call`. After a lost connection, `done_already` is asked for it first."""
        return _patiently(call, self._where, self._say, done_already)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """As in `BaseStorage`."""
        tries = 0

        def create() -> int:
            nonlocal tries
            tries += 1
            try:
                return self._storage.create_new_study(directions, study_name)
            except DuplicatedStudyError:
                if tries == 1 or study_name is None:
                    raise
                return self._storage.get_study_id_from_name(study_name)

        return self._call(create)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As in `BaseStorage`. The trial of a call whose answer was lost is found, not made again."""
        before = self._call(lambda: len(self._storage.get_all_trials(study_id, deepcopy=False)))

        def made() -> int | None:
            trials = self._storage.get_all_trials(study_id, deepcopy=False)
            return trials[-1]._trial_id if len(trials) > before else None

        return self._call(lambda: self._storage.create_new_trial(study_id, template_trial), made)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As in `BaseStorage`. True as well if the call whose answer was lost has set it."""

        def is_set() -> bool | None:
            return True if self._storage.get_trial(trial_id).state == state else None

        return self._call(lambda: self._storage.set_trial_state_values(trial_id, state, values), is_set)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """As in `BaseStorage`."""
        # A repeated one breaks a unique key, which Optuna takes for done.
        self._call(
            lambda: self._storage.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        )

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """As in `BaseStorage`."""
        self._call(lambda: self._storage.set_trial_intermediate_value(trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As in `BaseStorage`."""
        self._call(lambda: self._storage.set_trial_user_attr(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As in `BaseStorage`."""
        self._call(lambda: self._storage.set_trial_system_attr(trial_id, key, value))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """As in `BaseStorage`."""
        self._call(lambda: self._storage.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """As in `BaseStorage`."""
        self._call(lambda: self._storage.set_study_system_attr(study_id, key, value))

    def delete_study(self, study_id: int) -> None:
        """As in `BaseStorage`."""
        tries = 0

        def delete() -> None:
            nonlocal tries
            tries += 1
            try:
                self._storage.delete_study(study_id)
            except KeyError:
                if tries == 1:
                    raise

        self._call(delete)

    def get_study_id_from_name(self, study_name: str) -> int:
        """As in `BaseStorage`."""
        return self._call(lambda: self._storage.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        """As in `BaseStorage`."""
        return self._call(lambda: self._storage.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """As in `BaseStorage`."""
        return self._call(lambda: self._storage.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """As in `BaseStorage`."""
        return self._call(lambda: self._storage.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """As in `BaseStorage`."""
        return self._call(lambda: self._storage.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        """As in `BaseStorage`."""
        return self._call(self._storage.get_all_studies)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As in `BaseStorage`."""
        return self._call(lambda: self._storage.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """As in `BaseStorage`."""
        return self._call(lambda: self._storage.get_all_trials(study_id, deepcopy, states))

    def remove_session(self) -> None:
        """Closes what is open."""
        self._storage.remove_session()
