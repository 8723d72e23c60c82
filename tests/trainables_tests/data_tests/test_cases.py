"""The files that others reported: tests/fixtures/cases/README.md says what is in each and what is right."""

from __future__ import annotations

import pytest
from tests.odd_videos import BASE, CASES, CORNERS, PICTURE, TONES, corners, heard, shown

from paretovid.trainables.data.readers.probing import probe
from paretovid.trainables.data.videos import VideoReader

VARIABLE = [2, 7, 9, 17, 22, 24, 32, 37]  # of vfr.mp4, where every frame n with n mod 10 in 4..6 is missing
EXPECTED: dict[str, tuple[list[int], list[int], str]] = {
    "plain.mp4": (BASE, TONES, ""),
    "apac_only.mp4": (BASE, [], "no decoder for sound of codec apac: silence"),
    "apac_first.mp4": (BASE, TONES, "no decoder for sound of codec apac: track 2 of 2"),
    "change.ts": (BASE, list(range(8)), ""),
    "hole.mkv": (BASE, TONES, ""),
    "damaged_audio.mkv": (BASE, TONES, "audio damaged near 0.1 s: silence there"),
    "transpose.mp4": (BASE, TONES, "mirrored and rotated by 90 degrees counter-clockwise"),
    "twice.ts": (BASE * 2, [2, 6, 10, 14], "time stamps begin again once, first at 4.0 s"),
    "thumb_first.mov": (BASE, TONES, "track 2 of 2 picture tracks is read: the default one"),
    "raw.h264": (BASE, [], "no audio: silence"),
    "ps.mpg": (BASE, TONES, ""),
    "vfr.mp4": (VARIABLE, [], "no audio: silence"),
    "far.mkv": (BASE + [38] * 720, [], "one stands still from 3.8 to 363.9 s"),
}


def test_every_case_has_its_right_values() -> None:
    assert {path.name for path in CASES.iterdir()} - {"README.md"} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_case_is_read_right(name: str) -> None:
    pictures, tones, note = EXPECTED[name]
    with VideoReader(CASES / name, step_seconds=0.5) as reader:
        assert reader.num_steps == len(pictures)
        some = range(0, reader.num_steps, 1 if len(pictures) < 20 else 103)
        assert shown(reader, some) == [pictures[step] for step in some]
        if name != "far.mkv":
            assert heard(reader) == tones
        assert any(note in said for said in reader.notes) or (not note and not reader.notes)
        turned = ["red", "blue", "green", "yellow"]
        assert corners(reader.read(0, PICTURE)) == (turned if name == "transpose.mp4" else CORNERS)


@pytest.mark.parametrize("name", EXPECTED)
def test_probe_and_reader_agree_on_the_length_and_on_what_is_told(name: str) -> None:
    found = probe(CASES / name)
    with VideoReader(CASES / name, step_seconds=0.5) as reader:
        assert found.duration_seconds == reader.duration_seconds and not found.problem
        reported = {note for note in reader.notes if note != "no audio: silence"}
        shown(reader, [0])
    # A probe decodes one picture and no sound.
    assert reported <= set(found.notes) <= set(reader.notes)
