"""Objects of an S3 bucket by their URL, `s3://BUCKET/KEY`: listed, read in parts, downloaded.

A lost connection is tried again for `patience` seconds, a download from the byte that it had come to. Credentials and
the endpoint are what botocore finds (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, a role, ...; `AWS_ENDPOINT_URL`): nothing of
them is kept, or shown in an error.

What can go wrong with a bucket, in words, and what of it passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import math
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from paretovid.trainables.errors import DataError, UsageError, VideoError
from paretovid.trainables.redaction.texts import redacted

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
        self.message = redacted(message)
        self.hint = redacted(hint)
        super().__init__(self.message)
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
    if code == "NoSuchBucket":
        return ObjectStoreError(
            f"there is no bucket {bucket}",
            f"Make it (aws s3 mb {shlex.quote(f's3://{bucket}')}), or check its name.",
        )
    if isinstance(error, FileNotFoundError):
        return ObjectStoreError(
            f"there is no object {where}",
            "It was removed, or never written: is the URL right, is it complete?",
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


SCHEME = "s3://"
PATIENCE_SECONDS = 120.0
CHUNK_BYTES = 8 * 2**20
"""A download asks for so much at a time, which is what a lost connection costs."""
MAX_CONNECTIONS = 32
MAX_DOWNLOAD_VARIABLE = "PARETOVID_MAX_DOWNLOAD_GIGABYTES"
"""Names the size above which no object is downloaded whole."""
MAX_DOWNLOAD_GIGABYTES = 64.0
"""Where the variable says nothing."""
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_BLOCK_BYTES = 2**18
_KEPT_BLOCKS = 8
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectStatus:
    """What a listing says of an object."""

    bytes: int
    modified_nanoseconds: int


def is_object(location: Path | str | bytes) -> bool:
    """Whether a location is the URL of an object."""
    return isinstance(location, str) and location.startswith(SCHEME)


def connect() -> Any:
    """A new `s3fs.S3FileSystem` that keeps no listings. Raises `UsageError` where s3fs is not installed."""
    try:
        import s3fs
    except ModuleNotFoundError as error:
        raise UsageError(
            "s3:// needs s3fs, which is not installed", "pip install s3fs, or name a local copy."
        ) from error
    files = s3fs.S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": 5,
            "read_timeout": 30,
            "retries": {"mode": "standard", "max_attempts": 2},
            "max_pool_connections": MAX_CONNECTIONS,
        },
    )
    files.retries = 2  # `patiently` has the patience
    return files


def patiently(
    call: Callable[[], _T],
    url: str,
    action: str,
    key: str = "",
    *,
    missing_is_error: bool = True,
    patience: float = PATIENCE_SECONDS,
) -> _T:
    """What `call` gives, again and again while the bucket is away.

    Arguments:
        url, action, key: what is done to what, for messages.

    `FileNotFoundError` passes through unless `missing_is_error`, `FileExistsError` always; everything else becomes an
    `ObjectStoreError`.
    """
    until = time.monotonic() + patience
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except (FileExistsError, UsageError):
            raise
        except Exception as error:  # s3fs passes on what botocore and aiohttp raise
            if status_of(error) == 412:
                raise FileExistsError(key) from error
            if (
                isinstance(error, FileNotFoundError)
                and not missing_is_error
                and code_of(error) != "NoSuchBucket"
            ):
                raise
            if not is_passing(error) or time.monotonic() + pause > until:
                raise explained(url, action, key, error) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _files() -> Any:
    """Of this process."""
    return _files_at(os.environ.get("AWS_ENDPOINT_URL_S3"), os.environ.get("AWS_ENDPOINT_URL"))


@functools.cache
def _files_at(*endpoints: str | None) -> Any:
    return connect()


def status(url: str) -> ObjectStatus:
    """Raises `FileNotFoundError` if there is no such object."""
    return _status(patiently(lambda: _files().info(url), url, "read", missing_is_error=False))


def list_objects(url: str) -> dict[str, ObjectStatus]:
    """URL to status of all objects below a URL, at any depth."""
    start = url.rstrip("/") + "/"
    found = patiently(lambda: _files().find(start, detail=True), url, "list")
    return {f"{SCHEME}{path}": _status(entry) for path, entry in found.items()}


def _status(entry: Any) -> ObjectStatus:
    modified = entry.get("LastModified")
    return ObjectStatus(
        bytes=int(entry["size"]),
        modified_nanoseconds=0 if modified is None else int(modified.timestamp() * 1e9),
    )


def read_part(url: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` (exclusive). Raises `FileNotFoundError` if there is no such object."""

    def read() -> bytes:
        chunk: bytes = _files().cat_file(url, start=start, end=end)
        if len(chunk) != end - start:
            raise ConnectionError(f"{len(chunk)} bytes came of {end - start}")
        return chunk

    return b"" if end <= start else patiently(read, url, "read", missing_is_error=False)


def max_download_bytes() -> int:
    """Above this no object is downloaded whole. Raises `UsageError` if the variable is no size."""
    given = os.environ.get(MAX_DOWNLOAD_VARIABLE) or str(MAX_DOWNLOAD_GIGABYTES)
    try:
        size = float(given)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise UsageError(
            f"{MAX_DOWNLOAD_VARIABLE} is {given!r}",
            f"A size in GB is expected, above 0; without it: {MAX_DOWNLOAD_GIGABYTES:g}.",
        )
    return int(size * 1e9)


def read_object(url: str, max_bytes: int | None = None) -> bytes:
    """All of it.

    Arguments:
        max_bytes: more is not asked for; None: `max_download_bytes`.

    Raises `FileNotFoundError` if there is no such object, `DataError` for a larger one.
    """
    size, most = status(url).bytes, max_download_bytes() if max_bytes is None else max_bytes
    if size > most:
        hint = f"The variable {MAX_DOWNLOAD_VARIABLE} raises the limit." if max_bytes is None else ""
        raise DataError(f"{url} has {size / 1e9:.3g} GB, allowed are {most / 1e9:.3g}", hint)
    return b"".join(
        read_part(url, start, min(start + CHUNK_BYTES, size)) for start in range(0, size, CHUNK_BYTES)
    )


@contextlib.contextmanager
def downloaded(url: str) -> Iterator[Path]:
    """The object, a video, as a file of this machine's temporary folder, for the block.

    Raises `FileNotFoundError` if there is none, `VideoError` for one above `max_download_bytes`.
    """
    size, most = status(url).bytes, max_download_bytes()
    if size > most:
        raise VideoError(
            f"{url} has {size / 1e9:.3g} GB, and is not downloaded",
            f"Allowed are {most / 1e9:.3g}; the variable {MAX_DOWNLOAD_VARIABLE} raises the limit.",
        )
    with tempfile.NamedTemporaryFile(prefix="paretovid-", suffix=Path(url).suffix) as file:
        for start in range(0, size, CHUNK_BYTES):
            file.write(read_part(url, start, min(start + CHUNK_BYTES, size)))
        file.flush()
        yield Path(file.name)


def open_object(url: str) -> io.RawIOBase:
    """The object as a file of which only what is asked for is read. Raises `FileNotFoundError`."""
    return _ObjectFile(url, status(url).bytes)


@final
class _ObjectFile(io.RawIOBase):
    """Reads in blocks, of which the last few are kept: containers hop between their head, their index and a frame."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__()
        self._url, self._size, self._position = url, size, 0
        self._blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size:
            return 0
        number, offset = divmod(self._position, _BLOCK_BYTES)
        found = self._block(number)[offset : offset + len(buffer)]
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            if len(self._blocks) == _KEPT_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            start = number * _BLOCK_BYTES
            self._blocks[number] = read_part(self._url, start, min(start + _BLOCK_BYTES, self._size))
        return self._blocks[number]
