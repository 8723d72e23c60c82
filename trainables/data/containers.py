"""Opening files of videos: which are taken for one, which of their tracks are read, and whose fault an error is.

Nothing but the file itself is ever opened: FFmpeg is handed an open file and no name that it could read as a protocol,
only containers that are real videos are tried, and one that asks for another file or for the network is refused.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import av
from av.container import InputContainer

from paretovid.trainables.data.limits import USUAL_LIMITS, VideoLimitsConfig
from paretovid.trainables.data.regular_files import what_else
from paretovid.trainables.data.s3 import is_object, open_object
from paretovid.trainables.errors import ParetovidError, VideoError

# Containers of real videos. FFmpeg's probing would also take a text file for ANSI art, an image for a video
# of one frame, or a playlist that makes it fetch what the playlist names.
_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,m4v,nut,ivf,mxf,wtv"
EXPECTED = "Expected a video file with a video stream, such as MP4, MKV, WebM, MOV or AVI."
_COVER_ART = av.stream.Disposition.attached_pic
_DEFAULT = av.stream.Disposition.default
_LOGGING = threading.Lock()


@contextlib.contextmanager
def faults_of(name: str) -> Iterator[None]:
    """Whatever a decoder raises in the block becomes a `VideoError` of this video.

    What passes through: our own errors (of the video, of a bucket, of a package that is missing) and an `OSError` of
    the disk that the file is on, which says nothing of the video. FFmpeg's own errors, some of which are of that type
    too, never are the disk's: it is not FFmpeg that reads.
    """
    try:
        yield
    except av.error.FFmpegError as error:
        raise _unreadable(name, error) from error
    except (ParetovidError, OSError):
        raise
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> VideoError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if not isinstance(error, av.error.FFmpegError):
        reason = f"{type(error).__name__}: {reason}"
    return VideoError(f"{name} cannot be read as a video ({reason})", EXPECTED)


@final
class OpenVideo:
    """An open file that FFmpeg has taken for a video; a context manager that closes both."""

    def __init__(self, file: Any, container: InputContainer) -> None:
        self._file = file
        self.container = container

    def __enter__(self) -> InputContainer:
        return self.container

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self.container.close()
        self._file.close()


def open_video(
    source: Path | str | bytes,
    name: str,
    limits: VideoLimitsConfig = USUAL_LIMITS,
    check: Callable[[], None] = lambda: None,
) -> OpenVideo:
    """A file that is really a video, or a `VideoError` that names it. The caller closes it.

    Of an object (`s3://…`) only what is asked for is read. A pipe or a device is refused, and not opened. An `OSError`
    is of the disk or the bucket; a right that is missing (EACCES) is one too.

    Arguments:
        check: called before every read of the file, now and later; what it raises comes through.
    """
    file: Any
    if isinstance(source, bytes):
        if not source:
            raise VideoError(f"{name} is empty", EXPECTED)
        file = io.BytesIO(source)
    else:
        file = _open_object(str(source), name) if is_object(source) else _open_file(Path(source), name)
    file = _File(file, check)
    try:
        return OpenVideo(file, _open(file, name, limits))
    except BaseException:
        file.close()
        raise


def check_is_file(path: Path, name: str) -> None:
    """Raises `VideoError` for what is missing, or is no file with something in it; opens nothing."""
    try:
        other = what_else(path)
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VideoError(f"{name}: no such file", "Check the path. " + EXPECTED) from error
    except ValueError as error:  # a NUL in the name
        raise VideoError(f"{name!r}: no such file ({error})", "Check the path. " + EXPECTED) from error
    if other:
        raise VideoError(f"{name} is {other}, not a file", EXPECTED)
    if size == 0:
        raise VideoError(f"{name} is empty", EXPECTED)


class _File:
    """A file for FFmpeg, which searches on for a packet as long as it is given something to read.

    So before every read it is asked whether there is time left. FFmpeg is told of an error once: PyAV would print all
    but the first.

    Arguments:
        check: raises when there is none.
    """

    def __init__(self, file: Any, check: Callable[[], None]) -> None:
        self._file, self._check = file, check
        self._has_failed = False
        self.name = getattr(file, "name", "video")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int | None = -1) -> bytes:
        if self._has_failed:
            return b""
        try:
            self._check()
            return self._read(-1 if size is None else size)
        except BaseException:
            self._has_failed = True
            raise

    def _read(self, size: int) -> bytes:
        content: bytes = self._file.read(size)
        return content


def _open_file(path: Path, name: str) -> io.FileIO:
    check_is_file(path, name)
    file = io.FileIO(path)
    # FFmpeg knows some formats by the end of their name; the rest of it is nothing that it should look at.
    file.name = f"video{path.suffix}".encode("ascii", "replace").decode()
    return file


def _open_object(url: str, name: str) -> Any:
    try:
        file = open_object(url)
    except FileNotFoundError as error:
        raise VideoError(f"{name}: no such object", "Check the URL. " + EXPECTED) from error
    if file.seek(0, io.SEEK_END) == 0:
        raise VideoError(f"{name} is empty", EXPECTED)
    file.seek(0)
    return file


def _open(file: Any, name: str, limits: VideoLimitsConfig) -> InputContainer:
    def refuse(url: str, flags: int, options: Any) -> Any:
        raise VideoError(f"{name} asks for another file, {url}", "Nothing but the file itself is opened.")

    # FFmpeg decodes a little to find out what streams there are: it must not allocate what is too large even then.
    options = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": "",
        "max_pixels": str(limits.max_pixels),
    }
    with faults_of(name):
        container: InputContainer = av.open(
            file, "r", options=options, metadata_errors="replace", io_open=refuse
        )
    return container


def pictures_of(container: InputContainer, name: str) -> tuple[av.VideoStream, list[str]]:
    """The track of moving pictures that is read, and what was not as expected.

    The default one of those that can be decoded, else the first. Raises `VideoError` if there is none.
    """
    tracks = [track for track in container.streams.video if not track.disposition & _COVER_ART]
    if not tracks:
        raise VideoError(f"{name} has no video stream", EXPECTED)
    wanted = next((track for track in tracks if track.disposition & _DEFAULT), tracks[0])
    chosen = next((track for track in (wanted, *tracks) if track.codec_context is not None), None)
    if chosen is None:
        raise VideoError(
            f"{name} has pictures of codec {codec_name(container, wanted)}, for which there is no decoder",
            "Convert it, for example to H.264 in MP4.",
        )
    which = f"track {tracks.index(chosen) + 1} of {len(tracks)} picture tracks is read"
    if chosen is not wanted:
        return chosen, [f"no decoder for pictures of codec {codec_name(container, wanted)}: {which}"]
    return chosen, [] if chosen is tracks[0] else [f"{which}: the default one"]


def sound_of(container: InputContainer) -> tuple[av.AudioStream | None, list[str]]:
    """The first track of sound that can be decoded, if there is one, and what was not as expected."""
    tracks = list(container.streams.audio)
    if not tracks:
        return None, ["no audio: silence"]
    chosen = next((track for track in tracks if track.codec_context is not None), None)
    if chosen is tracks[0]:
        return chosen, []
    missing = f"no decoder for sound of codec {codec_name(container, tracks[0])}"
    if chosen is None:
        return None, [f"{missing}: silence"]
    return chosen, [f"{missing}: track {tracks.index(chosen) + 1} of {len(tracks)} sound tracks is heard"]


def codec_name(container: InputContainer, stream: av.stream.Stream) -> str:
    """Of a track that may have no decoder: what FFmpeg calls its codec, else the four letters in the file."""
    with _LOGGING:
        # PyAV tells it in this text only, which it writes with its log on.
        before = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            text = container.dumps_format()  # type: ignore[attr-defined]
        finally:
            av.logging.set_level(before)
    found = re.search(rf"Stream #0:{stream.index}\b.*?: (?:Video|Audio): (\w+)(?: \(([^/)]*) /)?", text)
    if found is None:
        return "unknown"
    name, letters = found.groups()
    return str(letters).strip() if name in ("none", "unknown") and letters else str(name)
