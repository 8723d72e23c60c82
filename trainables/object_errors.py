"""What can go wrong with a bucket, in words, and what of it passes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

_PASSING_CODES = frozenset(
    (
        "InternalError",
        "ServiceUnavailable",
        "SlowDown",
        "RequestTimeout",
        "OperationAborted",
        "ConditionalRequestConflict",
        "500",
        "502",
        "503",
        "504",
    )
)


class ObjectStoreError(OSError):
    """The bucket cannot be used: it or the right to it is missing, or it is away.

    Arguments:
        hint: what to do.
        is_passing: another try later may succeed.
    """

    def __init__(self, message: str, hint: str = "", *, is_passing: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.is_passing = is_passing

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> Any:
        return _restored, (self.message, self.hint, self.is_passing)


def _restored(message: str, hint: str, is_passing: bool) -> ObjectStoreError:
    return ObjectStoreError(message, hint, is_passing=is_passing)


def explained(url: str, action: str, key: str, error: Exception) -> ObjectStoreError:
    """What went wrong, in words; neither keys nor signed URLs are in it."""
    bucket = url.removeprefix("s3://").partition("/")[0]
    code, kind = code_of(error), type(_cause(error)).__name__
    where = f"{url}/{key}" if key else url
    if code == "NoSuchBucket" or (isinstance(error, FileNotFoundError) and not key):
        return ObjectStoreError(
            f"there is no bucket {bucket}",
            f"Make it (aws s3 mb s3://{bucket}), or check its name.",
        )
    if kind in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "CredentialRetrievalError",
    ):
        return ObjectStoreError(
            f"no credentials for {url}",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role.",
        )
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "ExpiredToken"):
        return ObjectStoreError(
            f"{url} refuses the credentials ({code})",
            "Check AWS_ACCESS_KEY_ID, its secret and its token.",
        )
    if isinstance(error, PermissionError) or code in ("AccessDenied", "403"):
        return ObjectStoreError(
            f"no permission to {action} {where}",
            "infra/s3-policy.json lists what is needed: list the bucket; get, put and delete objects below it.",
        )
    if is_passing(error):
        return ObjectStoreError(
            f"{url} cannot be reached ({kind}{f', {code}' if code else ''})",
            "Is AWS_ENDPOINT_URL right, and the server there? Nothing of what was done is lost.",
            is_passing=True,
        )
    return ObjectStoreError(f"{where} cannot be used to {action}: {kind}{f' ({code})' if code else ''}")


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ or error


def _response(error: BaseException) -> Mapping[str, Any]:
    response = getattr(_cause(error), "response", None)
    return response if isinstance(response, Mapping) else {}


def code_of(error: BaseException) -> str:
    """S3's own code of an error, `NoSuchBucket` for example; empty if the server has not answered."""
    return str((_response(error).get("Error") or {}).get("Code", ""))


def status_of(error: BaseException) -> int:
    """The HTTP status of the server's answer; 0 if there was none."""
    return int((_response(error).get("ResponseMetadata") or {}).get("HTTPStatusCode", 0))


def is_passing(error: BaseException) -> bool:
    """Whether another try may succeed: the connection was lost, or the server is busy."""
    if code_of(error) or status_of(error):
        return code_of(error) in _PASSING_CODES or status_of(error) >= 500 or status_of(error) == 429
    cause = _cause(error)
    if isinstance(cause, (ConnectionError, TimeoutError, asyncio.TimeoutError)):
        return True
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    # By name: botocore's and aiohttp's are imported only where s3fs is.
    return bool(
        kinds
        & {
            "BadHttpMessage",
            "HTTPClientError",
            "ConnectionError",
            "ClientError",
            "IncompleteReadError",
            "ResponseStreamingError",
            "FSTimeoutError",
            "ResponseParserError",
            "ClientPayloadError",
            "IncompleteRead",
        }
    )
