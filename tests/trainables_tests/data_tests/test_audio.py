"""Sound that changes, is missing or damaged, and an hour of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.odd_videos import BASE, TONES, encoded_sound, heard, picture, shown, tone, write

from paretovid.trainables.data import audio as module
from paretovid.trainables.data.audio import SAMPLE_RATE, AudioTrack
from paretovid.trainables.data.containers import open_video
from paretovid.trainables.data.videos import VideoReader


def write_changing(path: Path, first: tuple[int, str], second: tuple[int, str]) -> Path:
    """A video with sound that changes after two seconds: rate in Hz and layout of both halves; 1 kHz throughout."""
    with av.open(str(path), "w", format="mpegts") as file:
        video: Any = file.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound: Any = file.add_stream("mp2", rate=first[0], layout=first[1])
        for number in range(40):
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        file.mux(video.encode(None))
        for half, (rate, layout) in enumerate((first, second)):
            with av.open(str(path.with_suffix(".scratch")), "w", format="mpegts") as scratch:
                encoder: Any = scratch.add_stream("mp2", rate=rate, layout=layout)
                channels = {"mono": 1, "stereo": 2}[layout]
                steady = np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate).astype(np.float32) / 2
                for packet in encoded_sound(encoder, np.tile(steady, (channels, 1)), layout=layout):
                    seconds = float(packet.pts * packet.time_base) + 2 * half
                    packet.stream = sound
                    packet.pts = packet.dts = round(seconds / sound.time_base)
                    packet.time_base = sound.time_base
                    file.mux(packet)
    return path


@pytest.mark.parametrize(
    ("first", "second"),
    [((48_000, "mono"), (32_000, "mono")), ((44_100, "stereo"), (44_100, "mono"))],
)
def test_sound_that_changes_its_rate_or_layout_is_heard_throughout(
    tmp_path: Path, first: tuple[int, str], second: tuple[int, str]
) -> None:
    path = write_changing(tmp_path / "a.ts", first, second)
    with VideoReader(path, step_seconds=0.5) as reader:
        assert heard(reader) == list(range(8))
        assert not any("damaged" in note for note in reader.notes)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "aac"), ("a.ts", "mp2"), ("a.mp4", "aac")])
def test_missing_packets_are_silence_and_the_rest_is_where_it_was(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = write(
        tmp_path / name, sound=codec, keep_sound=lambda s: not (0.2 < s < 0.9 or 1.7 < s < 2.6 or s > 3.8)
    )
    with VideoReader(path, step_seconds=0.5) as reader:
        assert heard(reader) == TONES and shown(reader) == BASE


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_damaged_packets_are_silence_and_the_rest_is_where_it_was(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, sound="aac")
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.size]
        damaged = [bytes(p) for p in packets if 1.1 < float((p.pts or 0) * p.time_base) < 1.2]
    content = path.read_bytes()
    for each in damaged:
        content = content.replace(each, b"\xff" * len(each), 1)
    path.write_bytes(content)
    with VideoReader(path, step_seconds=0.5) as reader:
        assert heard(reader) == TONES
        assert any(note.startswith("audio damaged near 1.") for note in reader.notes), reader.notes


def write_long(path: Path, seconds: int, rate: int = 8000) -> Path:
    """Sound whose second n has the height n / seconds, without a change in it."""
    levels = np.arange(seconds, dtype=np.float32) / seconds
    with av.open(str(path), "w") as file:
        sound: Any = file.add_stream("flac", rate=rate, layout="mono")
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate, frame_size=4096)
        for first in range(0, seconds, 60):
            samples = np.repeat(levels[first : first + 60], rate)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, first * rate
            for each in resampler.resample(frame):
                file.mux(sound.encode(each))
        for each in resampler.resample(None):
            file.mux(sound.encode(each))
        file.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    ("seconds", "kept"), [(360, 60), pytest.param(3600, module._KEPT_BLOCKS, marks=pytest.mark.slow)]
)
def test_an_hour_of_sound_takes_no_more_memory_and_time_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, kept: int
) -> None:
    monkeypatch.setattr(module, "_KEPT_BLOCKS", kept)
    path = write_long(tmp_path / "long.mkv", seconds)
    track = AudioTrack(lambda: open_video(path, "long"), 0, 0.0)
    spent = []
    for second in range(seconds - 1):
        began = time.process_time()
        samples = track.samples(second * SAMPLE_RATE, (second + 1) * SAMPLE_RATE)
        spent.append(time.process_time() - began)
        assert samples[SAMPLE_RATE // 2] == pytest.approx(second / seconds, abs=1e-4)
        assert len(track._blocks) <= kept + 2
    assert np.median(spent[-kept:]) < 3 * np.median(spent[:kept])
    # What was let go of is decoded again.
    assert track.samples(0, SAMPLE_RATE)[8000] == pytest.approx(0.0, abs=1e-4)
    assert track.samples(90 * SAMPLE_RATE, 91 * SAMPLE_RATE)[8000] == pytest.approx(90 / seconds, abs=1e-4)
    track.close()


def test_sound_is_the_same_whatever_was_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", sound="aac")
    with VideoReader(path, step_seconds=0.5) as reader:
        index = reader._sound_index
        assert index is not None
    whole = AudioTrack(lambda: open_video(path, "a"), index, 0.0).samples(0, 4 * SAMPLE_RATE)
    monkeypatch.setattr(module, "_KEPT_BLOCKS", 1)
    track = AudioTrack(lambda: open_video(path, "a"), index, 0.0)
    for second in (3, 0, 2, 1, 1, 0):
        part = slice(second * SAMPLE_RATE + 100, (second + 1) * SAMPLE_RATE - 100)
        np.testing.assert_array_equal(track.samples(part.start, part.stop), whole[part])
    expected = tone(4.0, SAMPLE_RATE)[0]
    assert np.abs(whole - expected).mean() < 0.02
