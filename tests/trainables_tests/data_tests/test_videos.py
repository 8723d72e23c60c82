"""Reading videos: which frame is shown when, how far decoding goes, and files that are not as expected."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from paretovid.trainables.data.audio import SAMPLE_RATE, log_mel
from paretovid.trainables.data.decoding import FrameDecoder
from paretovid.trainables.data.videos import InputSpec, VideoReader, count_steps, read_all_steps
from paretovid.trainables.errors import UsageError, VideoError

FRAME = InputSpec(kind="frame", size=32)
SPECS = {
    "coarse": InputSpec(kind="frame", size=16),
    "fine": FRAME,
    "motion": InputSpec(kind="snippet", size=24, num_frames=8),
    "audio": InputSpec(kind="logmel", size=24, num_frames=20),
}
SILENCE = math.log(1e-4)


def shade(number: int) -> int:
    """Grey of a frame, which is its number."""
    return 20 + 6 * number


def number_of(image: np.ndarray) -> int:
    """The number of the frame that an image shows."""
    return round((float(image.mean()) - 20) / 6)


def write(
    path: Path,
    times: Sequence[float],
    *,
    tone: Sequence[float] | None = None,
    tone_from: float = 0.0,
    pictures: Sequence[np.ndarray] | None = None,
    rotation: int = 0,
    container_options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """A video with one grey frame per time stamp; `tone` is the pitch in Hz of each half second of sound."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        video = container.add_stream("libx264", rate=16)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 1600)
        video.options = {"crf": "1", "threads": "1", **(codec_options or {"preset": "ultrafast"})}
        if rotation:
            video.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if tone is not None else None
        for number, seconds in enumerate(times):
            picture = np.full((32, 32, 3), shade(number), np.uint8) if pictures is None else pictures[number]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(seconds * 1600), Fraction(1, 1600)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None and tone is not None:
            angle = 2 * np.pi * np.cumsum(np.repeat(np.array(tone), SAMPLE_RATE // 2)) / SAMPLE_RATE
            samples = (0.5 * np.sin(angle)).astype(np.float32)[None]
            heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = SAMPLE_RATE, round(tone_from * SAMPLE_RATE)
            container.mux(sound.encode(heard))
            container.mux(sound.encode(None))
    return path


def regular(count: int = 32) -> list[float]:
    return [number / 16 for number in range(count)]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write(tmp_path / "plain.mp4", regular(), tone=[500, 1000, 2000, 4000])


def read_frames(source: Path, *, step_seconds: float = 0.5) -> list[int]:
    shown = read_all_steps(source, {"frame": FRAME}, step_seconds=step_seconds)["frame"]
    return [number_of(image) for image in shown]


def test_a_frame_is_the_one_shown_at_the_middle_of_its_step(plain: Path) -> None:
    assert read_frames(plain) == [4, 12, 20, 28]


def test_a_snippet_is_spread_evenly_over_its_step(plain: Path) -> None:
    snippet = InputSpec(kind="snippet", size=8, num_frames=4)
    with VideoReader(plain, step_seconds=0.5) as reader:
        assert [number_of(image) for image in reader.read(1, snippet)] == [9, 11, 13, 15]


def test_a_snippet_with_a_span_goes_beyond_its_step_and_repeats_the_ends(plain: Path) -> None:
    # 32 frames at 16 per second; spans of 1 s around 0.25, 1.25 and 1.75 s, every fourth frame.
    spec = InputSpec(kind="snippet", size=8, num_frames=4, span_seconds=1.0)
    with VideoReader(plain, step_seconds=0.5) as reader:
        assert [number_of(image) for image in reader.read(0, spec)] == [0, 2, 6, 10]
        assert [number_of(image) for image in reader.read(2, spec)] == [14, 18, 22, 26]
        assert [number_of(image) for image in reader.read(3, spec)] == [22, 26, 30, 31]


def test_looking_back_over_a_span_decodes_nothing_twice(plain: Path) -> None:
    specs = {
        "fine": FRAME,
        "motion": InputSpec(kind="snippet", size=8, num_frames=4, span_seconds=1.0),
    }
    with VideoReader(plain, step_seconds=0.5) as reader:
        for step in range(4):
            for spec in specs.values():
                reader.read(step, spec)
        assert reader.frames_decoded == 32


def test_the_middle_square_is_cut_out_after_the_short_side_is_set(tmp_path: Path) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[8:24, 8:24] = 200
    path = write(tmp_path / "square.mp4", regular(8), pictures=[picture] * 8)
    whole, middle = (InputSpec(kind="frame", size=16, short_side=side) for side in (0, 32))
    with VideoReader(path, step_seconds=0.5) as reader:
        assert reader.read(0, middle).min() > 150, "only the middle is seen"
        squeezed = reader.read(0, whole)
    assert squeezed[:3].max() < 50 and squeezed[6:10, 6:10].min() > 150, "all of it is seen"


def test_a_wide_frame_is_cut_at_its_sides(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    picture = np.zeros((32, 96, 3), np.uint8)
    picture[:, 32:64] = 200
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=16)
        video.width, video.height, video.pix_fmt = 96, 32, "yuv420p"
        for _ in range(8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    with VideoReader(path, step_seconds=0.5) as reader:
        assert reader.read(0, InputSpec(kind="frame", size=14, short_side=16)).min() > 150
        assert reader.read(0, InputSpec(kind="frame", size=16)).min() < 50


def test_sound_on_the_scale_of_audioset(plain: Path) -> None:
    spec = InputSpec(kind="logmel", size=64, num_frames=96, scale="audioset")
    with VideoReader(plain, step_seconds=0.5) as reader:
        heard = [reader.read(step, spec) for step in (1, 2)]
    assert heard[0].shape == (64, 96) and heard[0].dtype == np.float32
    # 0.975 s around 0.75 s: 500 Hz, 1 kHz, then 2 kHz; the middle of the next step is 0.5 s later.
    loudest = [patch.argmax(axis=0) for patch in heard]
    assert loudest[0][5] < loudest[0][48] < loudest[0][90]
    assert abs(int(loudest[1][5]) - int(loudest[0][55])) <= 1
    # 1 kHz is 1,000 mel; 64 bands between 185 mel (125 Hz) and 2,773 mel (7,500 Hz) are 39.8 apart.
    assert int(loudest[0][48]) in (19, 20)


def test_silence_on_the_scale_of_audioset(tmp_path: Path) -> None:
    spec = InputSpec(kind="logmel", size=64, num_frames=96, scale="audioset")
    with VideoReader(write(tmp_path / "mute.mp4", regular(16)), step_seconds=0.5) as reader:
        np.testing.assert_allclose(reader.read(0, spec), math.log(1e-3), rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"short_side": 8}, "a square of 16"), ({"span_seconds": -1.0}, "span_seconds is -1")],
)
def test_an_input_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        InputSpec(kind="snippet", size=16, num_frames=2, **fields)


@pytest.mark.parametrize("order", ["forward", "backward", "mixed"])
def test_lazy_reading_gives_the_same_bits_as_reading_all(plain: Path, order: str) -> None:
    expected = read_all_steps(plain, SPECS, step_seconds=0.5)
    steps = {"forward": [0, 1, 2, 3], "backward": [3, 2, 1, 0], "mixed": [2, 0, 3, 3, 1]}[order]
    with VideoReader(plain, step_seconds=0.5) as reader:
        for step in steps:
            for key, spec in reversed(SPECS.items()):
                np.testing.assert_array_equal(reader.read(step, spec), expected[key][step])
    for key, spec in SPECS.items():
        assert expected[key].shape == (4, *spec.shape)
        assert expected[key].dtype == (np.float32 if spec.kind == "logmel" else np.uint8)


def test_bytes_read_as_the_file(plain: Path) -> None:
    from_file = read_all_steps(plain, SPECS, step_seconds=0.5)
    from_bytes = read_all_steps(plain.read_bytes(), SPECS, step_seconds=0.5)
    for key in SPECS:
        np.testing.assert_array_equal(from_bytes[key], from_file[key])


def test_nothing_is_decoded_that_was_not_asked_for(plain: Path) -> None:
    with VideoReader(plain, step_seconds=0.5) as reader:
        assert (reader.num_steps, reader.duration_seconds, reader.frames_decoded) == (4, 2.0, 0)
        reader.read(1, SPECS["audio"])
        assert reader.frames_decoded == 0
        reader.read(1, FRAME)
        assert reader.frames_decoded == 13  # 0 to 12
        reader.read(1, SPECS["motion"])
        assert reader.frames_decoded == 16  # each frame once, although the snippet starts earlier
        assert reader.decode_seconds > 0


NO_B = {"bf": "0"}
B_FRAMES = {"bf": "3"}
OPEN_GROUPS = {"bf": "3", "x264-params": "open-gop=1"}


# Without B-frames in AVI, which has no place for the order in which they are shown.
@pytest.mark.parametrize(
    ("kind", "codec"),
    [(kind, codec) for kind in ("mp4", "mkv", "ts") for codec in (NO_B, B_FRAMES, OPEN_GROUPS)]
    + [("avi", NO_B)],
)
def test_jumping_shows_what_reading_in_order_shows(tmp_path: Path, kind: str, codec: dict[str, str]) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(128)]
    options = {"preset": "medium", "g": "16", "keyint_min": "16", "sc_threshold": "0", **codec}
    path = write(tmp_path / f"jumps.{kind}", regular(128), pictures=pictures, codec_options=options)
    in_order = read_all_steps(path, {"motion": SPECS["motion"], "frame": FRAME}, step_seconds=0.5)
    with VideoReader(path, step_seconds=0.5) as reader:
        for step in (13, 2, 3, 14, 0, 8, 1, 7):
            np.testing.assert_array_equal(reader.read(step, FRAME), in_order["frame"][step])
            np.testing.assert_array_equal(reader.read(step, SPECS["motion"]), in_order["motion"][step])
        assert not any("damaged" in note for note in reader.notes)


def test_a_jump_decodes_from_the_last_key_frame_only(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "g": "16", "keyint_min": "16", "sc_threshold": "0"}
    path = write(
        tmp_path / "keys.mp4",
        regular(128),
        pictures=[np.full((32, 32, 3), number, np.uint8) for number in range(128)],
        codec_options=options,
    )
    decoded = []
    with VideoReader(path, step_seconds=0.5) as reader:
        for step in (13, 2, 3, 15):
            before = reader.frames_decoded
            assert reader.read(step, FRAME).mean() == pytest.approx(8 * step + 4, abs=2)
            decoded.append(reader.frames_decoded - before)
    # Frame 108 from 96, 20 back from 16, 28 right on from 21, 124 from 112.
    assert decoded == [13, 5, 8, 13]


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_jumping_in_a_damaged_file_shows_what_reading_in_order_shows(tmp_path: Path, kind: str) -> None:
    options = {"preset": "ultrafast", "g": "16", "keyint_min": "16", "sc_threshold": "0"}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        blocks = [rng.integers(0, 255, (4, 4, 3), np.uint8) for _ in range(96)]
        pictures = [np.kron(block, np.ones((8, 8, 1), np.uint8)) for block in blocks]
        path = write(tmp_path / f"{seed}.{kind}", regular(96), pictures=pictures, codec_options=options)
        with av.open(str(path)) as container:
            keys = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size and p.is_keyframe]
        content = bytearray(path.read_bytes())
        start, size = keys[3]
        # The decoder patches what it cannot read with what it showed before: after a seek, nothing.
        for place in rng.integers(start + size // 3, start + size, 2):
            content[place] ^= 0xFF
        path.write_bytes(content)
        # Snippets first: they want every frame, so that nothing is jumped over.
        specs = {"motion": SPECS["motion"], "frame": FRAME}
        in_order = read_all_steps(path, specs, step_seconds=0.5)["frame"]
        with VideoReader(path, step_seconds=0.5) as reader:
            for step in (7, 6, 10, 2, 8, 6):
                np.testing.assert_array_equal(reader.read(step, FRAME), in_order[step])


def test_a_file_that_cannot_be_trusted_to_seek_is_read_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"preset": "ultrafast", "g": "16", "keyint_min": "16", "sc_threshold": "0"}
    pictures = [np.full((32, 32, 3), number, np.uint8) for number in range(128)]
    path = write(tmp_path / "late.mkv", regular(128), pictures=pictures, codec_options=options)
    in_order = read_all_steps(path, {"frame": FRAME}, step_seconds=0.5)["frame"]
    move = FrameDecoder._move_to
    # A container that ends up a key frame further than it was asked to.
    monkeypatch.setattr(FrameDecoder, "_move_to", lambda self, stamp: move(self, stamp + 1000))
    with VideoReader(path, step_seconds=0.5) as reader:
        for step in (9, 2, 12, 3):
            np.testing.assert_array_equal(reader.read(step, FRAME), in_order[step])
        assert reader.frames_decoded > 100


def test_frames_that_wait_for_later_ones_are_shown_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "b.mp4", regular(), codec_options={"preset": "medium", "bf": "3"})
    assert read_frames(path) == [4, 12, 20, 28]


def test_variable_frame_rate_goes_by_time(tmp_path: Path) -> None:
    times = [0.0, 0.05, 0.1, 0.7, 0.72, 0.74, 0.76, 1.6, 1.9, 2.0]
    path = write(tmp_path / "vfr.mp4", times)
    # middles of the steps: 0.25, 0.75, 1.25, 1.75 s
    assert read_frames(path) == [2, 5, 6, 7]


def test_time_starts_at_the_first_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "late.mkv", [5.0 + seconds for seconds in regular()])
    assert read_frames(path) == [4, 12, 20, 28]


def test_sound_of_each_step(plain: Path) -> None:
    bands = read_all_steps(plain, {"audio": SPECS["audio"]}, step_seconds=0.5)["audio"]
    assert bands.shape == (4, 24, 20)
    loudest = bands[:, :, 8:12].mean(2).argmax(1)
    assert list(loudest) == sorted(set(loudest))  # the pitch rises from step to step
    assert bands.max() > 0 > SILENCE


def test_sound_and_picture_start_together(tmp_path: Path) -> None:
    path = write(tmp_path / "sync.mp4", regular(), tone=[1000, 0, 0, 1000])
    bands = read_all_steps(path, {"audio": SPECS["audio"]}, step_seconds=0.5)["audio"].max(1)
    assert (bands[[0, 3]].min(1) > bands[[1, 2], 4:-4].max(1) + 3).all()


@pytest.mark.parametrize("start", [5.0, 0.25])
@pytest.mark.parametrize("sound_after", [0.0, 0.5])
def test_sound_and_picture_stay_together_where_time_does_not_start_at_0(
    tmp_path: Path, start: float, sound_after: float
) -> None:
    path = write(
        tmp_path / "late.mkv",
        [start + seconds for seconds in regular()],
        tone=[1000, 0, 0, 1000][: 4 - round(2 * sound_after)],
        tone_from=start + sound_after,
    )
    with VideoReader(path, step_seconds=0.5) as reader:
        loudest = [float(reader.read(step, SPECS["audio"])[:, 4:-4].max()) for step in range(4)]
        assert number_of(reader.read(0, FRAME)) == 4
    heard = [1, 0, 0, 1] if sound_after == 0 else [0, 1, 0, 0]
    assert [level > 0 for level in loudest] == [bool(each) for each in heard]


def test_log_mel_of_silence_and_of_a_tone() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(8000, np.float32), bands=32, bins=10), SILENCE, rtol=1e-6)
    tones = [
        log_mel(np.sin(2 * np.pi * hz * np.arange(8000) / SAMPLE_RATE).astype(np.float32), bands=40, bins=5)
        for hz in (300, 1000, 3000)
    ]
    assert all(tone.shape == (40, 5) and tone.dtype == np.float32 for tone in tones)
    # 2595 log10(1 + hz / 700) mel, between 60 and 7,600 Hz, in 41 equal parts
    assert [int(tone[:, 2].argmax()) for tone in tones] == [4, 13, 26]


def test_missing_audio_is_silence_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "mute.mp4", regular())
    with VideoReader(path, step_seconds=0.5) as reader:
        assert not reader.has_audio
        assert reader.notes == ("no audio: silence",)
        np.testing.assert_allclose(reader.read(0, SPECS["audio"]), SILENCE, rtol=1e-6)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_of_the_metadata_is_applied(tmp_path: Path, rotation: int) -> None:
    picture = np.full((32, 32, 3), 30, np.uint8)
    picture[:16, :16] = 220  # bright at the top left
    path = write(tmp_path / "turned.mp4", regular(16), pictures=[picture] * 16, rotation=rotation)
    with VideoReader(path, step_seconds=0.5) as reader:
        image = reader.read(0, FRAME).mean(2)
        assert any("rotated" in note for note in reader.notes)
    quarters = {"top left": image[:16, :16], "bottom left": image[16:, :16]}
    quarters |= {"top right": image[:16, 16:], "bottom right": image[16:, 16:]}
    brightest = max(quarters, key=lambda name: quarters[name].mean())
    with av.open(str(path)) as container:
        degrees = next(container.decode(video=0)).rotation % 360  # counter-clockwise
    assert brightest == {90: "bottom left", 180: "bottom right", 270: "top right"}[degrees]
    assert degrees in (rotation % 360, -rotation % 360)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_truncated_files_are_used_as_far_as_they_go(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(64)]
    options = {"movflags": "+faststart"} if kind == "mp4" else {}
    path = write(tmp_path / f"whole.{kind}", regular(64), pictures=pictures, container_options=options)
    whole = read_all_steps(path, {"frame": FRAME}, step_seconds=0.5)["frame"]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with VideoReader(path, step_seconds=0.5) as reader:
        assert 4 <= reader.num_steps <= 5
        for step in range(4):
            np.testing.assert_array_equal(reader.read(step, FRAME), whole[step])
        if kind != "ts":  # a transport stream does not say how long it should be
            assert any("truncated at 2." in note for note in reader.notes)


def test_damage_in_the_middle_costs_only_what_is_damaged(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "g": "16"}
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(64)]
    path = write(tmp_path / "damaged.mp4", regular(64), pictures=pictures, codec_options=options)
    whole = read_all_steps(path, SPECS, step_seconds=0.5)
    with av.open(str(path)) as container:
        packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    start, end = packets[20][0], sum(packets[27])
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    read = read_all_steps(path, SPECS, step_seconds=0.5)
    for step in (0, 1, 4, 5, 6, 7):  # frames 0 to 15 and, after the next key frame, 32 to 63
        np.testing.assert_array_equal(read["motion"][step], whole["motion"][step])
    with VideoReader(path, step_seconds=0.5) as reader:  # lazily the same, damaged steps included
        for step in (2, 3, 6):
            np.testing.assert_array_equal(reader.read(step, SPECS["motion"]), read["motion"][step])
        assert any("damaged" in note for note in reader.notes)


def test_a_short_video_has_one_step(tmp_path: Path) -> None:
    assert len(read_frames(write(tmp_path / "short.mp4", regular(2)))) == 1
    assert [count_steps(seconds, 0.5) for seconds in (0.1, 0.99, 1.0, 1.7, 3 * 0.1 / 0.3 * 0.5)] == [
        1,
        1,
        2,
        3,
        1,
    ]


def _unreadable(folder: Path, kind: str) -> tuple[Path, str]:
    path = folder / f"{kind}.mp4"
    if kind == "missing":
        return path, "no such file"
    if kind == "folder":
        path.mkdir()
        return path, "is a folder"
    if kind == "pipe":
        os.mkfifo(path)
        return path, "is a named pipe, not a file"
    if kind == "empty":
        path.touch()
        return path, "is empty"
    if kind == "sound only":
        with av.open(str(path), "w") as container:
            sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux([*sound.encode(frame), *sound.encode(None)])
        return path, "no video stream"
    if kind == "cut header":
        content = write(path, regular()).read_bytes()
        path.write_bytes(content[: len(content) // 2])
        return path, "cannot be read as a video"
    if kind == "image":
        from PIL import Image

        path = path.with_suffix(".png")
        Image.new("RGB", (32, 32)).save(path)
        return path, "cannot be read as a video"
    path = path.with_suffix(".m3u8" if kind == "playlist" else ".txt")
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{path}\n" if kind == "playlist" else "a text, not a video\n" * 200)
    return path, "cannot be read as a video"


@pytest.mark.parametrize(
    "kind", ["missing", "folder", "pipe", "empty", "text", "sound only", "cut header", "image", "playlist"]
)
def test_what_is_no_video_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path, reason = _unreadable(tmp_path, kind)
    with pytest.raises(VideoError, match=reason) as caught:
        VideoReader(path, step_seconds=0.5)
    assert str(path) in caught.value.message
    assert "Expected a video file" in caught.value.hint


def test_bytes_that_are_no_video_are_refused_by_the_given_name() -> None:
    for content in (b"", b"neither fish nor fowl" * 50):
        with pytest.raises(VideoError, match="upload 7"):
            VideoReader(content, step_seconds=0.5, name="upload 7")


def test_a_video_without_one_good_frame_is_refused_on_reading(plain: Path) -> None:
    with av.open(str(plain)) as container:
        packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(plain.read_bytes())
    for place, size in packets:
        content[place : place + size] = bytes(size)
    plain.write_bytes(content)
    with VideoReader(plain, step_seconds=0.5) as reader, pytest.raises(VideoError, match="not one frame"):
        reader.read(0, FRAME)


def test_wrong_use(plain: Path) -> None:
    with VideoReader(plain, step_seconds=0.5) as reader:
        for step in (-1, 4):
            with pytest.raises(IndexError, match=r"plain\.mp4"):
                reader.read(step, FRAME)
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="step_seconds"):
            VideoReader(plain, step_seconds=seconds)
    with pytest.raises(UsageError, match="picture"):
        InputSpec(kind="picture", size=16)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="size 0"):
        InputSpec(kind="frame", size=0)
