from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path

import av
import pytest
from tests.odd_videos import write

from paretovid.trainables.data import containers
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.data.readers import probing
from paretovid.trainables.data.readers.probing import CACHE, probe, probe_all
from paretovid.trainables.data.videos import VideoReader
from paretovid.trainables.errors import UnavailableDataError


@pytest.fixture
def video(tmp_path, write_video):
    return write_video(tmp_path / "videos" / "a.mp4", 2.5)


def test_the_length_is_the_readers(video):
    found = probe(video)
    with VideoReader(video, step_seconds=0.5) as reader:
        assert found.duration_seconds == pytest.approx(reader.duration_seconds, abs=0.02)
    assert not found.problem and len(found.edges) == 16


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_file_is_as_long_as_what_is_there(video, kept):
    data = video.read_bytes()
    video.write_bytes(data[: int(kept * len(data))])
    with VideoReader(video, step_seconds=0.5) as reader:
        assert probe(video).duration_seconds == reader.duration_seconds < 2.4


def test_containers_without_an_index_are_read_through(video):
    other = video.with_suffix(".mkv")
    with av.open(str(video)) as source, av.open(str(other), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    assert probe(other).duration_seconds == pytest.approx(2.5, abs=0.05)


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    assert probe(tmp_path / "pipe.mp4").problem == "a named pipe, not a file"
    assert probe(tmp_path / "zero.mp4").problem == "a device, not a file"


def test_bad_files_have_a_problem_each(video):
    data = video.read_bytes()
    for name, content in {
        "empty.mp4": b"",
        "text.mp4": b"no video",
        "cut.mp4": data[:600],
    }.items():
        path = video.with_name(name)
        path.write_bytes(content)
        found = probe(path)
        assert found.problem and found.duration_seconds == 0, name
    assert "No such file" in probe(video.with_name("missing.mp4")).problem


def test_copies_have_the_same_edges(video, write_video):
    copy = video.with_name("copy.mp4")
    copy.write_bytes(video.read_bytes())
    assert probe(copy).edges == probe(video).edges
    assert probe(write_video(video.with_name("other.mp4"))).edges != probe(video).edges


def test_a_file_is_looked_at_once(tmp_path, video, write_video):
    looked: list[str] = []

    def counting(function, paths):
        for path in paths:
            looked.append(path.name)
            yield function(path)

    other = video.with_name("b.mp4")
    other.write_bytes(b"no video")
    first = probe_all([video, other], tmp_path / "home", counting)
    assert sorted(looked) == ["a.mp4", "b.mp4"] and first[str(other)].problem
    assert probe_all([video, other], tmp_path / "home", counting) == first and len(looked) == 2
    write_video(other, 3.0)
    assert not probe_all([video, other], tmp_path / "home", counting)[str(other)].problem
    os.utime(video, ns=(1, 1))
    probe_all([video, other], tmp_path / "home", counting)
    assert looked[2:] == ["b.mp4", "a.mp4"]


def test_what_a_killed_process_wrote_is_used(tmp_path, video):
    home = tmp_path / "home"
    probe_all([video], home)
    cache = home / CACHE
    cache.write_text(cache.read_text() + '{"path": "/x/y.mp4", "by')
    assert not probe_all([video], home, lambda function, paths: [function(path) for path in paths if 1 / 0])[
        str(video)
    ].problem


def test_what_an_older_version_or_other_limits_have_found_is_looked_at_again(tmp_path, video):
    home = tmp_path / "home"
    first = probe_all([video], home)
    cache = home / CACHE
    old = {
        key: value for key, value in json.loads(cache.read_text()).items() if key not in ("notes", "made_by")
    }
    cache.write_text(json.dumps({**old, "duration_seconds": 1.0}) + "\n")
    assert probe_all([video], home) == first
    small = VideoLimitsConfig(max_pixels=1)
    assert "pixels" in probe_all([video], home, limits=small)[str(video)].problem
    assert probe_all([video], home) == first


def failing_file(code: int, after_bytes: int) -> type[io.FileIO]:
    class Failing(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= after_bytes:
                raise OSError(code, os.strerror(code))
            return super().read(512)

    return Failing


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("where", ["stat", "open", "read", "read on"])
def test_a_disk_that_is_away_is_not_held_against_a_video(
    tmp_path, video, write_video, monkeypatch, code, where
):
    """Injected just below our code: of two files the second one cannot be read."""
    away, home = write_video(video.with_name("b.mp4"), 2.0), tmp_path / "home"
    stat, opened, failing = Path.stat, io.FileIO, failing_file(code, 0 if where == "read" else 512)

    def fail(path):
        if path == away:
            raise OSError(code, os.strerror(code), str(path))

    def refused(path, **named):
        fail(path)
        return stat(path, **named)

    def file_of(path):
        if where == "open":
            fail(path)
        return failing(path) if path == away else opened(path)

    with monkeypatch.context() as patched:
        if where == "stat":
            patched.setattr(Path, "stat", refused)
        else:
            patched.setattr(io, "FileIO", file_of)
        with pytest.raises(UnavailableDataError, match=f"b.mp4 cannot be read: {os.strerror(code)}") as error:
            probe_all([video, away], home)
        assert error.value.hint
    assert [json.loads(line)["path"] for line in (home / CACHE).read_text().splitlines()] == [str(video)]
    found = probe_all([video, away], home)
    assert not any(each.problem for each in found.values()), "as before, once the disk is back"


def test_a_file_that_goes_while_it_is_looked_at_is_away(tmp_path, video, monkeypatch):
    """As with a mount that answers "no such file" from one moment to the next."""

    class Going(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            video.unlink(missing_ok=True)
            return b""

    monkeypatch.setattr(io, "FileIO", Going)
    with pytest.raises(UnavailableDataError, match=r"a\.mp4 cannot be read: No such file"):
        probe_all([video], tmp_path / "home")


@pytest.mark.parametrize("leaves_folder", [False, True])
def test_a_file_that_is_missing_with_its_whole_folder_is_away(tmp_path, video, write_video, leaves_folder):
    """A mount that is gone leaves no folder, or an empty one; one file among others is its own problem."""
    mounted, home = write_video(tmp_path / "mount" / "b.mp4", 2.0), tmp_path / "home"
    video.with_name("beside.mp4").touch()
    shutil.rmtree(mounted.parent)
    if leaves_folder:
        mounted.parent.mkdir()
    with pytest.raises(UnavailableDataError, match=r"b\.mp4 is not there, and its folder is gone or empty"):
        probe_all([video, mounted], home)
    assert [json.loads(line)["path"] for line in (home / CACHE).read_text().splitlines()] == [str(video)]
    write_video(mounted, 2.0)
    assert not any(each.problem for each in probe_all([video, mounted], home).values())
    video.unlink()
    assert "No such file" in probe_all([video, mounted], home)[str(video)].problem


def test_names_that_no_file_can_have_are_problems(tmp_path):
    (tmp_path / "round.mp4").symlink_to(tmp_path / "round.mp4")
    for path in (tmp_path / "round.mp4", tmp_path / f"{'x' * 300}.mp4", tmp_path / "file" / "a.mp4"):
        (tmp_path / "file").touch()
        assert probe(path).problem


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(
    "times", [None, [0.1 * n for n in range(39)] + [9.9], [0.3 + 0.1 * n for n in range(30)]]
)
def test_an_index_is_trusted_where_it_says_what_the_packets_say(tmp_path, monkeypatch, b_frames, times):
    """The quick way and the long one give the same length; the quick one does not read all packets."""
    path = write(tmp_path / "a.mp4", times, sound="aac", options={"bf": str(b_frames)})
    with monkeypatch.context() as patched:
        patched.setattr(probing, "read_timeline", None)
        quick = probe(path)
    monkeypatch.setattr(probing, "indexed_length", lambda *_: None)
    assert quick == probe(path) and not quick.problem
    with VideoReader(path, step_seconds=0.5) as reader:
        assert reader.duration_seconds == quick.duration_seconds


def test_of_a_long_file_with_an_index_the_ends_are_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", [0.01 * n for n in range(40)], options={"g": "4"})
    read: list[int] = []

    class Counting(containers._File):
        def read(self, size: int | None = -1) -> bytes:
            found: bytes = super().read(size)
            read.append(len(found))
            return found

    monkeypatch.setattr(containers, "_File", Counting)
    probe(path)
    assert sum(read) < 4 * path.stat().st_size + 4 * 32768
