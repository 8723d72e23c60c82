"""Pictures are shown as their display matrix says: first mirrored, then turned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.odd_videos import PICTURE, corners, write

from paretovid.trainables.data.display import orientation
from paretovid.trainables.data.readers.probing import probe
from paretovid.trainables.data.videos import VideoReader

ONE = 2**16
# (a, b, c, d): x is shown at a x + c y, y at b x + d y. Corners: where red, green, blue and yellow are then.
MATRICES = {
    (1, 0, 0, 1): ["red", "green", "blue", "yellow"],
    (0, 1, -1, 0): ["blue", "red", "yellow", "green"],
    (-1, 0, 0, -1): ["yellow", "blue", "green", "red"],
    (0, -1, 1, 0): ["green", "yellow", "red", "blue"],
    (-1, 0, 0, 1): ["green", "red", "yellow", "blue"],
    (1, 0, 0, -1): ["blue", "yellow", "red", "green"],
    (0, 1, 1, 0): ["red", "blue", "green", "yellow"],
    (0, -1, -1, 0): ["yellow", "green", "blue", "red"],
}


def matrix(a: float, b: float, c: float, d: float) -> np.ndarray:
    return np.array([a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 2**30], np.int32)


@pytest.mark.parametrize("numbers", MATRICES)
def test_all_eight_ways_to_turn_and_mirror(tmp_path: Path, numbers: tuple[int, int, int, int]) -> None:
    path = write(tmp_path / "a.mp4", prepare=lambda stream: stream.set_display_matrix(list(matrix(*numbers))))
    with VideoReader(path, step_seconds=0.5) as reader:
        assert corners(reader.read(0, PICTURE)) == MATRICES[numbers]
        reported = [note for note in reader.notes if "metadata" in note]
    assert len(reported) == (numbers != (1, 0, 0, 1)) and reported == [
        n for n in probe(path).notes if "meta" in n
    ]


def test_matrices_are_what_they_do_to_a_place() -> None:
    image = np.arange(16).reshape(4, 4)
    for a, b, c, d in MATRICES:
        turned = orientation(matrix(a, b, c, d)).apply(image)
        for y, x in np.ndindex(4, 4):
            # Around the middle, at 1.5.
            to_x, to_y = a * (x - 1.5) + c * (y - 1.5) + 1.5, b * (x - 1.5) + d * (y - 1.5) + 1.5
            assert turned[int(to_y), int(to_x)] == image[y, x], (a, b, c, d)


@pytest.mark.parametrize(
    ("degrees", "turns", "note"),
    [
        (0.5, 0, ""),
        (30.0, 0, "rotated by 30 degrees counter-clockwise by its metadata, which is no right angle: 0 are"),
        (80.0, 1, "rotated by 80 degrees counter-clockwise by its metadata, which is no right angle: 90 are"),
        (-100.0, 3, "rotated by 260 degrees counter-clockwise by its metadata, which is no right angle: 270"),
    ],
)
def test_an_angle_that_is_no_right_one_is_told(degrees: float, turns: int, note: str) -> None:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    found = orientation(matrix(cosine, -sine, sine, cosine))
    assert (found.turns, found.is_mirrored) == (turns, False)
    assert found.note.startswith(note) and bool(found.note) == bool(note)


def test_a_matrix_that_shows_nothing_is_told() -> None:
    found = orientation(matrix(0, 0, 0, 0))
    assert (found.turns, found.is_mirrored) == (0, False) and "shows nothing" in found.note
