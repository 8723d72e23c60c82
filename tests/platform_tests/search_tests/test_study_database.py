"""Studies in a real PostgreSQL database: away for a while, shared by sweeps, without passwords anywhere."""

from __future__ import annotations

import threading
import time
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from paretovid.infra.testing import free_port
from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.search import retrying_storage as patient_storage
from paretovid.platform.search.location import STORAGE_VARIABLE, study_location
from paretovid.platform.search.retrying_storage import PatientStorage, StudyStorageError
from paretovid.platform.search.study import ParetoStudy
from paretovid.platform.storage.home import Home
from paretovid.platform.storage.urls import check_no_secret
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.errors import UsageError
from paretovid.trainables.redaction.urls import recorded_url, without_secrets_of
from paretovid.trainables.testing import synthetic_metrics

KNOBS = {"gamma": KnobConfig(field="gamma", low=0.05, high=0.95), "K": KnobConfig(low=1, high=9, whole=True)}


def a_study(storage, name="s", trials=6, **settings):
    return ParetoStudy(storage=storage, name=name, knobs=KNOBS, trials=trials, **settings)


def measured(knobs):
    return synthetic_metrics(knobs["gamma"], knobs["gamma"] + knobs["K"])


def finish(study):
    while (suggestion := study.ask()) is not None:
        study.report(suggestion.trial_id, measured(suggestion.knobs))


@pytest.mark.slow
def test_a_search_in_a_database(database):
    study = a_study(database)
    finish(study)
    assert study.counts().complete == 6
    again = a_study(database)
    assert again.ask() is None
    assert len(again.complete_ones()) == 6


def test_an_interrupted_trial_resumes_under_its_own_name(database):
    study = a_study(database)
    first = study.ask()
    study.requeue(first.trial_id)
    second = study.ask()
    assert (second.trial_id, second.knobs, second.attempt) == (first.trial_id, first.knobs, 2)


def test_the_same_suggestions_as_in_a_file(database, tmp_path):
    knobs = []
    for storage in (database, f"journal://{tmp_path / 'optuna.journal'}"):
        study = a_study(storage, seed=3)
        asked = []
        while (suggestion := study.ask()) is not None:
            study.report(suggestion.trial_id, measured(suggestion.knobs))
            asked.append(suggestion.knobs)
        knobs.append(asked)
    assert knobs[0] == knobs[1]


@pytest.mark.slow
def test_two_sweeps_in_one_database_at_once(database):
    faults = []

    def search(name):
        try:
            finish(a_study(database, name, trials=5))
        except Exception as error:
            faults.append(error)

    a_study(database, "made-first", trials=1)
    threads = [threading.Thread(target=search, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    for name in ("one", "two"):
        trials = optuna.load_study(study_name=name, storage=database).get_trials()
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5


@pytest.mark.slow
def test_a_server_that_goes_away_is_waited_for(postgres, database, capfd):
    study = a_study(database, trials=8)
    suggestion = study.ask()
    postgres.stop()
    back = threading.Timer(3.0, postgres.start)
    back.start()
    began = time.monotonic()
    try:
        study.report(suggestion.trial_id, measured(suggestion.knobs))
    finally:
        back.join()
    assert 2 < time.monotonic() - began < 40
    finish(study)
    trials = optuna.load_study(study_name="s", storage=database).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8
    shown = capfd.readouterr().err
    assert "are away; waiting" in shown and "the studies are back" in shown


class _LosesAnswers:
    """A storage whose calls are carried out, and whose answers are lost when it is set so."""

    def __init__(self, storage):
        self._storage = storage
        self.loses = False

    def __getattr__(self, name):
        from sqlalchemy.exc import OperationalError

        def call(*args, **kwargs):
            answer = getattr(self._storage, name)(*args, **kwargs)
            if self.loses and name.startswith(("create", "set", "delete")):
                self.loses = False
                raise OperationalError("", {}, Exception("server closed the connection unexpectedly"))
            return answer

        return call


def test_what_was_done_before_the_connection_was_lost_is_not_done_twice(database):
    inner: Any = _LosesAnswers(optuna.storages.get_storage(database))
    storage = PatientStorage(inner, "here", say=lambda text: None)
    directions = [optuna.study.StudyDirection.MAXIMIZE]
    inner.loses = True
    study = storage.create_new_study(directions, "x")
    assert storage.get_study_id_from_name("x") == study
    inner.loses = True
    trial = storage.create_new_trial(study)
    assert [each._trial_id for each in storage.get_all_trials(study)] == [trial]
    inner.loses = True
    storage.set_trial_param(trial, "a", 0.5, optuna.distributions.FloatDistribution(0, 1))
    assert storage.get_trial(trial).params == {"a": 0.5}
    inner.loses = True
    assert storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
    assert storage.get_trial(trial).values == [1.0]
    inner.loses = True
    storage.delete_study(study)
    assert storage.get_all_studies() == []


def test_one_that_stays_away_ends_the_sweep_with_what_to_do(postgres, monkeypatch):
    database = postgres.make_database("away")
    study = a_study(database)
    suggestion = study.ask()
    monkeypatch.setattr(patient_storage, "PATIENCE_SECONDS", 1.0)
    postgres.stop()
    try:
        with pytest.raises(StudyStorageError, match="away for 1 s") as raised:
            study.report(suggestion.trial_id, measured(suggestion.knobs))
    finally:
        postgres.start()
    assert "paretovid resume" in raised.value.hint


def test_wrong_credentials_are_reported_without_them(database, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "not-this-one")
    began = time.monotonic()
    with pytest.raises(UsageError, match="password authentication failed") as raised:
        a_study(database)
    assert time.monotonic() - began < 10
    assert "PGPASSWORD" in raised.value.hint
    assert "not-this-one" not in str(raised.value)


def test_a_database_that_is_not_there_is_reported_at_once(postgres):
    began = time.monotonic()
    with pytest.raises(UsageError, match='database "nowhere" does not exist') as raised:
        a_study(postgres.url("nowhere"))
    assert time.monotonic() - began < 10
    assert raised.value.hint.startswith("Is the URL right"), "the server has answered: it is not down"


@pytest.mark.slow
def test_a_server_that_is_restarted_while_its_database_is_opened_is_waited_for(postgres, monkeypatch, capfd):
    database = postgres.make_database("restarted")
    make = optuna.storages.RDBStorage.__init__
    timers: list[threading.Timer] = []

    def stopped(*words, **settings):
        if not timers:
            postgres.stop()
            timers.append(threading.Timer(3.0, postgres.start))
            timers[0].start()
        make(*words, **settings)

    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", stopped)
    try:
        finish(a_study(database))
    finally:
        timers[0].join()
    assert a_study(database).counts().complete == 6
    shown = capfd.readouterr().err
    assert "are away; waiting" in shown and "the studies are back" in shown


def test_a_commit_that_is_lost_while_its_database_is_opened_is_looked_up(database, monkeypatch):
    """Each of the commits by which the tables of a new database are made, done and its answer lost, or not done."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    commits = []

    def lost(connection):
        commits.append(connection)
        if len(commits) in (1, 3):
            connection.connection.driver_connection.close()
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    event.listen(Engine, "commit", lost)
    try:
        study = a_study(database)
    finally:
        event.remove(Engine, "commit", lost)
    assert len(commits) > 3
    finish(study)
    assert a_study(database).counts().complete == 6


def test_one_that_stays_away_while_it_is_opened_is_not_called_a_wrong_url(database, monkeypatch):
    def away(*words, **settings):
        raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", away)
    monkeypatch.setattr(patient_storage, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(StudyStorageError, match="away for") as raised:
        a_study(database)
    assert "paretovid resume" in raised.value.hint


def test_a_server_that_says_that_it_is_starting_is_waited_for(database, monkeypatch, capfd):
    import psycopg2

    connect, answers = psycopg2.connect, iter(["starting up", "not yet accepting connections"])

    def starting(*words, **settings):
        for said in answers:
            raise psycopg2.OperationalError(f"FATAL:  the database system is {said}")
        return connect(*words, **settings)

    monkeypatch.setattr(psycopg2, "connect", starting)
    finish(a_study(database))
    assert "the studies are back" in capfd.readouterr().err


def test_a_server_that_is_not_there_is_reported_within_seconds():
    began, port = time.monotonic(), free_port()
    with pytest.raises(UsageError, match="cannot be opened") as raised:
        a_study(f"postgresql+psycopg2://me:pass-word@127.0.0.1:{port}/x")
    assert time.monotonic() - began < 10
    assert "pass-word" not in str(raised.value)
    assert raised.value.hint.startswith(f"The server may be down: `pg_isready -h 127.0.0.1 -p {port}`")


def test_passwords_are_refused_in_settings():
    for setting in (
        "search.storage='postgresql://me:pass-word@host/x'",
        "tracking.uri='http://me:pass-word@host'",
    ):
        with pytest.raises(UsageError, match="holds a password") as raised:
            load_sweep_config([setting])
        assert "pass-word" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://me:pa/ss@host/db",
        "postgresql+psycopg2://me:pa?ss@host/db",
        "postgresql+psycopg2://me:pa#ss@host/db",
        "postgresql+psycopg2://host/db?user=me&password=pa/ss",
    ],
)
def test_passwords_that_a_database_driver_takes_are_known_as_such(url):
    """All of these connect, whatever a URL should look like."""
    secret = str(make_url(url).password or make_url(url).query["password"])
    with pytest.raises(UsageError, match="holds a password") as raised:
        check_no_secret(url, "search.storage")
    assert secret not in str(raised.value)
    assert secret not in recorded_url(url)
    assert secret not in without_secrets_of(f"{secret} is wrong for {url}", url)


def test_urls_are_shown_without_their_passwords():
    assert (
        recorded_url("postgresql+psycopg2://me:a%2Fb@host:5432/x") == "postgresql+psycopg2://me@host:5432/x"
    )
    assert recorded_url("journal:///a/b@c:d") == "journal:///a/b@c:d"
    assert (
        without_secrets_of("a/b is wrong, a%2Fb too", "postgresql://me:a%2Fb@host/x")
        == "*** is wrong, *** too"
    )


def test_a_study_is_not_looked_for_in_another_store(tmp_path, monkeypatch):
    home = Home(tmp_path)
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    here = study_location(home, "s", "abc", None)
    assert (here.name, here.described) == ("s", "home")
    monkeypatch.setenv(STORAGE_VARIABLE, "postgresql://me:pass-word@host/x")
    there = study_location(home, "s", "abc", None)
    assert (there.name, there.described) == ("s-abc", "postgresql://me@host/x")
    with pytest.raises(UsageError, match="kept in home, not in postgresql://me@host/x"):
        study_location(home, "s", "abc", None, here.described)
    monkeypatch.delenv(STORAGE_VARIABLE)
    with pytest.raises(UsageError, match=f"{STORAGE_VARIABLE} set to postgresql://me@host/x"):
        study_location(home, "s", "abc", None, there.described)


def test_what_libpq_fails_at_is_a_lost_connection_and_what_a_statement_does_wrong_is_not() -> None:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, PendingRollbackError

    def wrapped(cause: Exception) -> StorageInternalError:
        error = StorageInternalError("An exception is raised during the commit.")
        error.__cause__ = cause
        return error

    lost = DatabaseError("", {}, Exception("error with status PGRES_TUPLES_OK and no message from the libpq"))
    assert patient_storage.is_connection_lost(wrapped(lost))
    assert patient_storage.is_connection_lost(wrapped(PendingRollbackError("roll it back")))
    for wrong in (
        IntegrityError("", {}, Exception("a key is there")),
        DataError("", {}, Exception("too long")),
    ):
        assert not patient_storage.is_connection_lost(wrapped(wrong))
