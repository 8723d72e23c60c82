"""Which files are taken for videos, that nothing else is opened, and whose fault an error is."""

from __future__ import annotations

import errno
import http.server
import io
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from tests.odd_videos import BASE, CASES, TONES, heard, shown, write

from paretovid.trainables.data import containers
from paretovid.trainables.data.containers import codec_name, faults_of, open_video
from paretovid.trainables.data.decoding import FrameDecoder
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.data.readers.probing import probe
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.data.videos import VideoReader
from paretovid.trainables.errors import UsageError, VideoError

PLAIN = CASES / "plain.mp4"


@pytest.mark.parametrize(
    "name",
    [
        "10:30.mp4",
        "file:x.mp4",
        "concat:a.mp4|b.mp4",
        "http:x.mp4",
        "pipe:0",
        "-i.mp4",
        "a%03d.mp4",
        "\udcff\n.mp4",
        "subfile,,start,0,end,9,,:a.mp4",
    ],
)
def test_a_name_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PLAIN, tmp_path / name)
    for path in (Path(name), name):
        with VideoReader(path, step_seconds=0.5) as reader:
            assert shown(reader, [0, 3]) == [2, 17] and heard(reader) == TONES
        assert probe(path).duration_seconds == 4.0
    with pytest.raises(VideoError, match="no such file"):
        VideoReader(f"x{name}", step_seconds=0.5)


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server's address, and what it was asked for."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()
    thread.join()


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{it}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{it}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="1"><BaseURL>{it}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\na=control:{it}\n",
    "smil": '<smil><body><video src="{it}"/></body></smil>',
    "asx": '<asx version="3.0"><entry><ref href="{it}"/></entry></asx>',
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat", ".mpd"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_file_that_names_others_opens_none(
    tmp_path: Path, asked: tuple[str, list[str]], kind: str, suffix: str
) -> None:
    address, requests = asked
    for it in (f"{address}/x.mp4", str(PLAIN)):
        path = tmp_path / f"a{suffix}"
        path.write_text(PLAYLISTS[kind].format(it=it))
        with pytest.raises(VideoError, match="cannot be read as a video"):
            VideoReader(path, step_seconds=0.5)
        with pytest.raises(VideoError, match="cannot be read as a video"):
            VideoReader(path.read_bytes(), step_seconds=0.5)
        assert probe(path).problem
    assert not requests


def test_a_demuxer_that_asks_for_another_file_is_refused(
    tmp_path: Path, asked: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the list of formats lets through: here, playlists."""
    monkeypatch.setattr(containers, "_FORMATS", "hls,concat,mov,mpegts")
    address, requests = asked
    for kind, it in (("hls", f"{address}/x.ts"), ("hls", str(PLAIN)), ("concat", str(PLAIN))):
        path = tmp_path / f"a.{'m3u8' if kind == 'hls' else 'ffconcat'}"
        path.write_text(PLAYLISTS[kind].format(it=it))
        with pytest.raises(VideoError, match=r"asks for another file|cannot be read as a video"):
            VideoReader(path, step_seconds=0.5)
    assert not requests


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    link = tmp_path / "zero.mp4"
    link.symlink_to("/dev/zero")
    for path, kind in ((pipe, "a named pipe"), (link, "a device")):
        with pytest.raises(VideoError, match=f"is {kind}, not a file"):
            VideoReader(path, step_seconds=0.5)
    with pytest.raises(VideoError, match="no such file"):
        VideoReader("a\0b.mp4", step_seconds=0.5)


def without_decoder(path: Path, source: Path, letters: bytes) -> Path:
    """A copy in which a codec's four letters are such that nobody knows."""
    path.write_bytes(source.read_bytes().replace(letters, b"xyz1"))
    return path


def test_pictures_without_a_decoder_name_file_and_codec(tmp_path: Path) -> None:
    path = without_decoder(tmp_path / "a.mp4", PLAIN, b"avc1")
    with pytest.raises(VideoError, match=r"a\.mp4 has pictures of codec xyz1, for which there is no decoder"):
        VideoReader(path, step_seconds=0.5)
    assert "codec xyz1" in probe(path).problem
    other = without_decoder(tmp_path / "b.mov", CASES / "thumb_first.mov", b"avc1")
    with VideoReader(other, step_seconds=0.5) as reader:
        assert reader.notes[0] == "no decoder for pictures of codec xyz1: track 1 of 2 picture tracks is read"


def test_sound_without_a_decoder_is_the_next_track_or_silence(tmp_path: Path) -> None:
    path = without_decoder(tmp_path / "a.mp4", CASES / "apac_first.mp4", b"mp4a")
    path.write_bytes(path.read_bytes().replace(b"esds", b"xxxx"))  # which names the codec as well
    with VideoReader(path, step_seconds=0.5) as reader:
        assert shown(reader) == BASE and heard(reader) == []
        assert "no decoder for sound of codec apac: silence" in reader.notes
    with open_video(PLAIN, "plain") as container:
        assert [codec_name(container, stream) for stream in container.streams] == ["h264", "aac"]


def test_the_default_track_of_pictures_is_read(tmp_path: Path) -> None:
    first, second = write(tmp_path / "first.mp4"), write(tmp_path / "second.mp4", [0.0, 0.5, 1.0, 1.5])
    for default in (0, 1):
        path = tmp_path / f"{default}.mkv"
        with av.open(str(first)) as a, av.open(str(second)) as b, av.open(str(path), "w") as both:
            streams = [both.add_stream_from_template(each.streams.video[0]) for each in (a, b)]
            for number, stream in enumerate(streams):
                stream.disposition = av.stream.Disposition(int(number == default))
            packets = [
                (p, stream) for each, stream in zip((a, b), streams, strict=True) for p in each.demux(video=0)
            ]
            for packet, stream in sorted(
                packets, key=lambda pair: float((pair[0].dts or 0) * pair[0].time_base)
            ):
                if packet.dts is not None:
                    packet.stream = stream
                    both.mux(packet)
        with VideoReader(path, step_seconds=0.5) as reader:
            # Of the second one FFmpeg writes the last duration or leaves it out, by its version.
            assert reader.duration_seconds == pytest.approx(1.8 if default else 4.0, abs=0.3)
            reported = "track 2 of 2 picture tracks is read: the default one"
            assert (reported in reader.notes) == bool(default)


def test_a_frame_that_is_too_large_is_refused_before_it_is_decoded() -> None:
    small = VideoLimitsConfig(max_pixels=64 * 48 - 1)
    with pytest.raises(VideoError, match=r"plain\.mp4 has frames of 64 x 48 pixels") as caught:
        VideoReader(PLAIN, step_seconds=0.5, limits=small)
    assert "max_pixels=3071" in caught.value.hint
    assert "64 x 48 pixels" in probe(PLAIN, small).problem
    with VideoReader(PLAIN, step_seconds=0.5, limits=VideoLimitsConfig(max_pixels=64 * 48)) as reader:
        assert shown(reader, [1]) == [7]


def test_a_frame_that_is_larger_than_the_file_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a header says is believed here; the decoder itself then allocates no more than is allowed.
    monkeypatch.setattr(VideoLimitsConfig, "check_pixels", lambda *_: None)
    with (
        pytest.raises(VideoError, match=r"plain\.mp4"),
        VideoReader(PLAIN, step_seconds=0.5, limits=VideoLimitsConfig(max_pixels=100)) as reader,
    ):
        shown(reader)


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        RuntimeError("bug"),
        ValueError("odd"),
        AttributeError("none"),
        av.error.BugError(1, "x"),
    ],
)
def test_whatever_a_decoder_raises_is_that_videos(monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    """Injected right below our code: no file makes PyAV raise all of these on every machine."""

    def fail(self: FrameDecoder, number: int) -> None:
        raise raised

    with VideoReader(PLAIN, step_seconds=0.5) as reader:
        monkeypatch.setattr(FrameDecoder, "frame", fail)
        with pytest.raises(VideoError, match=r"plain\.mp4 cannot be read as a video \(.+\)") as caught:
            shown(reader)
    assert caught.value.__cause__ is raised


def test_a_disk_or_a_bucket_or_a_missing_package_is_not_the_videos_fault() -> None:
    for error in (OSError(116, "stale file handle"), ObjectStoreError("away"), UsageError("no package")):
        with pytest.raises(type(error)) as caught, faults_of("a.mp4"):
            raise error
        assert caught.value is error


def test_an_error_of_the_disk_comes_through_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Injected in the file that FFmpeg reads from."""

    class Failing(containers._File):
        def _read(self, size: int) -> bytes:
            assert size > 0, "FFmpeg reads in pieces"
            if self.tell() >= 4096:
                raise OSError(116, "stale file handle")
            return super()._read(4096)

    with VideoReader(PLAIN, step_seconds=0.5) as reader:
        monkeypatch.setattr(containers, "_File", Failing)
        with pytest.raises(OSError, match="stale file handle") as caught:
            reader._decoder._start()
            shown(reader)
    assert not isinstance(caught.value, VideoError)


def test_a_file_that_may_not_be_read_is_not_the_videos_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Injected: tests may run as root, who may read everything."""

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(io, "FileIO", refuse)
    with pytest.raises(PermissionError) as caught:
        VideoReader(PLAIN, step_seconds=0.5)
    assert not isinstance(caught.value, VideoError) and caught.value.filename == str(PLAIN)
