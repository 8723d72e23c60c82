"""What one video may ask for."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from tests.odd_videos import CASES, shown

from paretovid.trainables.data.limits import USUAL_LIMITS, Stopwatch, VideoLimitsConfig
from paretovid.trainables.data.readers.probing import probe
from paretovid.trainables.data.videos import VideoReader
from paretovid.trainables.errors import UsageError, VideoError


def test_the_usual_limits() -> None:
    assert (USUAL_LIMITS.max_pixels, USUAL_LIMITS.max_steps) == (8192 * 8192, 100_000)
    assert USUAL_LIMITS.max_decode_seconds == 20 * 60 and USUAL_LIMITS.differing() == {}
    assert VideoLimitsConfig(max_steps=7).differing() == {"max_steps": 7}
    for wrong in ({"max_pixels": 0}, {"max_steps": 0}, {"max_decode_seconds": 0.0}, {"max_pixels": 2**31}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} must be"):
            VideoLimitsConfig(**wrong)


def test_time_is_counted_over_all_reads() -> None:
    watch = Stopwatch("a.mp4", VideoLimitsConfig(max_decode_seconds=1.0))
    with watch:
        watch.check()
    assert 0 < watch.seconds < 1
    watch.seconds = 1.1
    with watch, pytest.raises(VideoError, match=r"a\.mp4 was decoded for more than 1 s") as caught:
        watch.check()
    assert "max_decode_seconds" in caught.value.hint


def test_a_video_that_takes_too_long_is_left_off_wherever_it_is() -> None:
    short = VideoLimitsConfig(max_decode_seconds=1e-6)
    with pytest.raises(VideoError, match="for more than 1e-06 s"):
        VideoReader(CASES / "hole.mkv", step_seconds=0.5, limits=short)
    assert "for more than 1e-06 s" in probe(CASES / "hole.mkv", short).problem
    with VideoReader(CASES / "plain.mp4", step_seconds=0.5) as reader:
        assert shown(reader, [0]) == [2]
        reader._stopwatch.seconds = 2000.0
        with pytest.raises(VideoError, match="for more than 1200 s"):
            shown(reader, [7])


def test_a_call_that_searches_a_file_without_a_packet_ends_in_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sparse.mpg"
    shutil.copy(CASES / "ps.mpg", path)
    os.truncate(path, 1_500_000_000)
    short = VideoLimitsConfig(max_decode_seconds=0.2)
    began = time.monotonic()
    with pytest.raises(VideoError, match=r"for more than 0\.2 s"):
        VideoReader(path, step_seconds=0.5, limits=short)
    assert "for more than 0.2 s" in probe(path, short).problem
    with pytest.raises(VideoError, match=r"for more than 0\.05 s"):
        VideoReader(
            (CASES / "ps.mpg").read_bytes() + bytes(200_000_000),
            step_seconds=0.5,
            limits=VideoLimitsConfig(max_decode_seconds=0.05),
        )
    assert time.monotonic() - began < 10
    assert "".join(capfd.readouterr()) == "", "PyAV prints an error that it is told twice"
