"""Which frame is shown when, and how long a video is, in files whose time is odd."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from tests.odd_videos import BASE, TONES, heard, shown, write

from paretovid.trainables.data import timeline
from paretovid.trainables.data.limits import USUAL_LIMITS, VideoLimitsConfig
from paretovid.trainables.data.readers.probing import probe
from paretovid.trainables.data.videos import VideoReader
from paretovid.trainables.errors import VideoError


def length(path: Path) -> float:
    """Of the reader, which the probe must have as well."""
    with VideoReader(path, step_seconds=0.5) as reader:
        assert probe(path).duration_seconds == reader.duration_seconds
        return reader.duration_seconds


PAUSE = [0.1 * n for n in range(20)] + [12.0 + 0.1 * n for n in range(20)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts"])
def test_a_pause_among_b_frames_is_as_long_as_it_is(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PAUSE)
    # The duration of a packet is the distance to the next one in decoding order: ten seconds for a frame of 0.1 s.
    assert length(path) == pytest.approx(14.0, abs=0.05)
    with VideoReader(path, step_seconds=0.5) as reader:
        assert shown(reader) == [2, 7, 12, 17, *[19] * 20, 22, 27, 32, 37]
        assert reader.notes == ("no audio: silence",)


def test_a_pause_right_before_the_last_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [0.1 * n for n in range(39)] + [9.9])
    assert length(path) == pytest.approx(10.0, abs=0.05)


@pytest.mark.parametrize("count", [2, 3])
def test_recordings_one_after_the_other_are_all_there(tmp_path: Path, count: int) -> None:
    part = write(tmp_path / "part.ts", sound="mp2", container="mpegts").read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(part * count)
    assert length(path) == pytest.approx(4.0 * count, abs=0.1)
    with VideoReader(path, step_seconds=0.5) as reader:
        assert shown(reader) == BASE * count
        assert heard(reader) == [tone + 8 * part for part in range(count) for tone in TONES]
        assert shown(reader, [2, 9, 1]) == [12, 7, 7], "going back starts over"
        times = "once" if count == 2 else "2 times"
        assert any(f"begin again {times}, first at 4.0 s" in note for note in reader.notes)


def test_a_frame_minutes_away_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "far.mp4", [0.1 * n for n in range(20)] + [300 + 0.1 * n for n in range(20)])
    assert length(path) == pytest.approx(302.0, abs=0.05)
    with VideoReader(path, step_seconds=0.5) as reader:
        assert any("one stands still from 1.9 to 300.0 s" in note for note in reader.notes)
        assert any("one stands still from" in note for note in probe(path).notes)
    slides = write(tmp_path / "slides.mp4", [30.0 * n for n in range(4)])
    with VideoReader(slides, step_seconds=0.5) as reader:
        assert reader.notes == ("no audio: silence",), "slides are usually that far from each other"


def test_two_billion_steps_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "years.mkv", [0.1 * n for n in range(39)] + [1e9])
    with pytest.raises(VideoError, match=r"1e\+09 s long by its time stamps, 20+ steps") as caught:
        VideoReader(path, step_seconds=0.5)
    assert f"max_steps={USUAL_LIMITS.max_steps}" in caught.value.hint
    few = VideoLimitsConfig(max_steps=7)
    base = write(tmp_path / "base.mp4")
    with pytest.raises(VideoError, match="4 s long by its time stamps, 8 steps"):
        VideoReader(base, step_seconds=0.5, limits=few)
    with VideoReader(base, step_seconds=0.6, limits=few) as reader:
        assert reader.num_steps == 6


@pytest.mark.parametrize(
    ("codec", "container", "rate"),
    [
        ("libx264", "h264", 20),
        ("libx265", "hevc", 20),
        ("mpeg4", "m4v", 20),
        ("mpeg2video", "mpeg2video", 50),
    ],
)
def test_a_stream_without_a_container_has_its_own_rate(
    tmp_path: Path, codec: str, container: str, rate: int
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV comes without {codec}")
    path = write(tmp_path / f"raw.{container}", codec=codec, container=container, rate=rate)
    assert length(path) == pytest.approx(40 / rate, rel=0.03)
    with VideoReader(path, step_seconds=0.5) as reader:
        assert [abs(a - b) <= 1 for a, b in zip(shown(reader), [rate // 4, rate * 3 // 4], strict=False)]


@pytest.mark.parametrize("rate", [25, 30])
def test_a_program_stream(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.mpg", codec="mpeg2video", sound="mp2", container="vob", rate=rate)
    assert length(path) == pytest.approx(40 / rate, abs=0.05)


def test_time_stamps_that_cannot_be() -> None:
    # Written into the packets' place: no container that PyAV writes takes them.
    part = timeline._Part(stamps=[-(2**62), 0, 2**62], last_duration=1)
    with pytest.raises(VideoError, match=r"a\.nut has time stamps that cannot be"):
        timeline._stamped("a.nut", "nut", 0.001, [part], True)
