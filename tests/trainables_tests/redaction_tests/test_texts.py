"""Messages as libraries word them, without the secrets in them."""

from __future__ import annotations

import errno
import logging

import pytest

from paretovid.trainables.errors import DataError, ParetovidError, errors_redacted
from paretovid.trainables.redaction.texts import redact_logs, redacted, redacted_traceback

SECRET = "Zm9v-YmFy_4711"


@pytest.mark.parametrize(
    "text",
    [
        f"HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /api/2.0/x?token={SECRET} (Caused by",
        f"Max retries exceeded with url: /b/x.pth?versionId=1&X-Amz-Signature={SECRET}",
        f'Could not connect to the endpoint URL: "https://u:{SECRET}@minio:9000/b?list-type=2"',
        f'"GET /b/x.pth?key={SECRET} HTTP/1.1" 403 -',
        f"403 Client Error: Forbidden for url: https://h/x?sig={SECRET}&se=1",
        f"(psycopg2.OperationalError) postgresql+psycopg2://me:{SECRET}@h/x: refused",
        f"invalid dsn: host=h password='{SECRET} x' user=me",
        f"invalid dsn: password={SECRET} user=me",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f"Authorization: Basic {SECRET}",
        f'{{"access_token": "{SECRET}", "x": 1}}',
        f"aws_secret_access_key={SECRET}",
        f"X-Amz-Security-Token={SECRET}&x=1",
        f"PGPASSWORD={SECRET} psql",
        f"mypassword={SECRET}",
        f"$ tool --token {SECRET} --verbose",
        f"$ tool --registry-password {SECRET}",
        f"sent: Bearer {SECRET}",
        f"no such store: //me:{SECRET}@host/x",
        f"Cannot connect to proxy http://me:{SECRET}@proxy:3128",
    ],
)
def test_what_libraries_say(text: str) -> None:
    assert SECRET not in redacted(text)
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "MLFLOW_TRACKING_PASSWORD is read by MLflow: https://mlflow.org/docs#auth",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        "search.trials=8 seed=1 name=s home=/a/b",
        "postgresql+psycopg2://USER@HOST/DATABASE",
        "sqlite:////home/me/mlflow.db, journal:///a/b",
        "Did you mean 'search.trials'? Known here: a, b.",
        "password authentication failed for user me",
        "models:/digits@champion",
        "//host/share/10:30.mp4",
        "the bearer authentication of this server",
        "secretary=me, tokens=5, --token --verbose, --token",
        "Resume: paretovid resume s home='/videos/a?b=c d'",
    ],
)
def test_texts_without_secrets_stay_as_they_are(text: str) -> None:
    assert redacted(text) == text


def test_values_of_secret_variables_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    monkeypatch.setenv("PGPASSWORD", "postgres")
    monkeypatch.setenv("PARETOVID_STUDY_STORAGE", "postgresql://me:pass-word/1@host/x")
    assert redacted(f"401 for {SECRET}.") == "401 for ***."
    assert redacted("the host postgres") == "the host postgres", "a common word is no use and no secret"
    assert redacted("nonnumeric port: 'pass-word/1@host'") == "nonnumeric port: '***@host'"


def test_no_error_of_ours_keeps_a_secret_also_in_another_process() -> None:
    error = DataError(f"https://h/x?sig={SECRET} is gone", f"Look at https://u:{SECRET}@h.")
    cls, given = error.__reduce__()  # as Ray sends it
    for each in (error, cls(*given)):
        assert SECRET not in f"{each} {each!r} {each.message} {each.hint} {each.args}"


def raised(error: Exception, cause: Exception | None = None) -> BaseException:
    with pytest.raises(Exception) as found, errors_redacted():
        raise error from cause
    return found.value


def test_errors_leave_a_process_without_secrets() -> None:
    found = raised(ValueError(f"bad https://h/x?sig={SECRET}"))
    assert (type(found), str(found)) == (RuntimeError, "ValueError: bad https://h/x")
    assert found.__suppress_context__
    found = raised(ConnectionRefusedError(errno.ECONNREFUSED, f"https://u:{SECRET}@h refuses"))
    assert isinstance(found, ConnectionRefusedError) and found.errno == errno.ECONNREFUSED
    assert SECRET not in str(found)
    found = raised(DataError("cannot be read", "Why?"), ValueError(f"token={SECRET}"))
    assert isinstance(found, ParetovidError) and found.__cause__ is None and found.hint == "Why?"


def test_errors_without_secrets_stay_what_they_are() -> None:
    error, cause = KeyError("x"), ValueError("y")
    assert raised(error, cause) is error and error.__cause__ is cause


def test_tracebacks_have_no_secrets() -> None:
    try:
        raise DataError("cannot be read") from ValueError(f"https://h/x?sig={SECRET}")
    except DataError:
        text = redacted_traceback()
    assert "ValueError: https://h/x" in text and "DataError: cannot be read" in text and SECRET not in text


def test_log_records_have_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    try:
        redact_logs()
        factory = logging.getLogRecordFactory()
        redact_logs()
        assert logging.getLogRecordFactory() is factory, "installed once"
        logger = logging.getLogger("some.client")
        logger.warning("retrying %s after %d", f"https://h/x?sig={SECRET}", 3)
        logger.warning("as it is: %s", "a")
        try:
            raise ValueError(f"token={SECRET}")
        except ValueError:
            logger.exception("failed")
    finally:
        logging.setLogRecordFactory(before)
    assert SECRET not in caplog.text and "ValueError: token=***" in caplog.text
    assert caplog.messages[:2] == ["retrying https://h/x after 3", "as it is: a"]
    assert caplog.records[1].args == ("a",)
