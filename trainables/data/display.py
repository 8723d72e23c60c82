"""How a frame is to be shown: the display matrix that phones write instead of turning what they filmed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import av
import numpy as np

_TOLERANCE_DEGREES = 1.0


@dataclass(frozen=True, slots=True)
class Orientation:
    """First mirrored (left becomes right), then turned."""

    is_mirrored: bool = False
    turns: int = 0
    """Quarter turns counter-clockwise, 0 to 3."""
    note: str = ""
    """What was done, for people; empty if nothing was."""

    def apply(self, image: np.ndarray) -> np.ndarray:
        """A square image `[S, S, 3]` as it is to be shown."""
        shown = image[:, ::-1] if self.is_mirrored else image
        return np.ascontiguousarray(np.rot90(shown, self.turns))


UPRIGHT = Orientation()


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """What the metadata of a frame says."""
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return UPRIGHT
    return orientation(np.frombuffer(bytes(found), np.int32))  # type: ignore[call-overload]


def orientation(matrix: np.ndarray) -> Orientation:
    """Of a display matrix `[9]` int32, as FFmpeg has it: (x, y) is shown at (a x + c y, b x + d y).

    An angle that is not a right one is brought to the nearest that is.
    """
    a, b, _, c, d = (int(value) for value in matrix[:5])
    determinant = a * d - b * c
    if determinant == 0:
        return Orientation(note="its display matrix shows nothing: shown as it is stored")
    is_mirrored = determinant < 0
    if is_mirrored:
        a, b = -a, -b
    degrees = -math.degrees(math.atan2(b, a))  # counter-clockwise; y points down
    quarters = round(degrees / 90)
    turns = quarters % 4
    mirrored = "mirrored and " if is_mirrored else ""
    if abs(degrees - 90 * quarters) > _TOLERANCE_DEGREES:
        note = (
            f"{mirrored}rotated by {degrees % 360:.0f} degrees counter-clockwise by its metadata, which is no right "
            f"angle: {turns * 90} are taken"
        )
    elif turns:
        note = f"{mirrored}rotated by {turns * 90} degrees counter-clockwise, as its metadata says"
    else:
        note = "mirrored, as its metadata says" if is_mirrored else ""
    return Orientation(is_mirrored, turns, note)
