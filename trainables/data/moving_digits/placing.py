"""Where things are in a video of `moving_digits`: which step shows what, drawn without knowing how it looks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from paretovid.trainables.data.dataset import Event

PREVAILING = "prevailing"
"""Group of the classes that are decided by which of several lights is seen most often in the whole video."""

_STRETCH = (3, 8)
"""Shortest and longest stretch of evidence in a video that has single steps too, steps."""

Run = tuple[int, int]
"""(class, steps): so many neighbouring steps show it."""


def cut(rng: np.random.Generator, label: int, steps: int, lengths: tuple[int, int]) -> Iterator[Run]:
    """Runs of one class that have `steps` steps together; `lengths`: shortest and longest run, but for the last."""
    shortest, longest = lengths
    left = steps
    while left > 0:
        run = shortest if shortest == longest else int(rng.integers(shortest, longest + 1))
        yield label, min(left, run)
        left -= run


def cut_unevenly(rng: np.random.Generator, label: int, steps: int, stretches: float) -> Iterator[Run]:
    """Runs of one class that have `steps` steps together: single steps, with probability `stretches` stretches."""
    left = steps
    while left > 0:
        run = int(rng.integers(_STRETCH[0], _STRETCH[1] + 1)) if rng.random() < stretches else 1
        yield label, min(left, run)
        left -= run


def spread_out(rng: np.random.Generator, steps: int, runs: Sequence[Run]) -> list[int]:
    """Class of each of `steps` steps, -1 where nothing is: the runs in any order, as likely anywhere.

    The runs must not be longer than `steps` together.
    """
    order = rng.permutation(len(runs))
    free = steps - sum(run for _, run in runs)
    # Gaps before, between and after the runs: a uniformly random way to share the free steps out.
    places = np.sort(rng.choice(free + len(runs), len(runs), replace=False))
    gaps = np.diff(np.concatenate([[-1], places])) - 1
    step_labels: list[int] = []
    for gap, run in zip(gaps, order, strict=True):
        step_labels += [-1] * int(gap) + [runs[run][0]] * runs[run][1]
    return step_labels + [-1] * (steps - len(step_labels))


def draw_steps(rng: np.random.Generator, steps: int, least: float, most: float) -> int:
    """How many of `steps` steps: a share between `least` and `most`, small ones as likely as large in equal ratios.

    Never a share outside of the two, unless no whole number of steps is inside; two steps at least.
    """
    share: float = least * (most / least) ** rng.random()
    lowest = max(2, math.ceil(least * steps - 1e-9))
    return min(max(lowest, round(share * steps)), max(lowest, math.floor(most * steps + 1e-9)))


def draw_lights(
    rng: np.random.Generator, labels: Sequence[int], steps: int, *, prevailing: int | None, share: float
) -> list[tuple[int, int]]:
    """(class, steps) of each light in a video that shows lights in `steps` steps.

    Arguments:
        labels: the classes whose lights they are; all of them are in every video.
        prevailing: the one with `share` of the steps; the others have equally many. None: all have equally many.
            A step that cannot be shared out goes to any of them.
    """
    lead = 0 if prevailing is None else round(share * steps)
    others = [int(label) for label in rng.permutation([label for label in labels if label != prevailing])]
    each, left = divmod(steps - lead, len(others))
    counts = [(label, each + (place < left)) for place, label in enumerate(others)]
    return counts if prevailing is None else [(prevailing, lead), *counts]


def draw_repeats(rng: np.random.Generator, step_labels: Sequence[int], shown: Iterable[int]) -> list[int]:
    """Of each step a number: steps with the same one show the very same; -1 where nothing is shown again.

    A run of steps shows one thing throughout, and there is one thing for every third run, so that in most videos
    several runs show it. `shown`: the classes that are shown again.
    """
    repeated = set(shown)
    runs = [run for run in neighbours(step_labels) if run[0] in repeated]
    answer = [-1] * len(step_labels)
    for _, start, end in runs:
        answer[start:end] = [int(rng.integers(0, math.ceil(len(runs) / 3)))] * (end - start)
    return answer


def neighbours(step_labels: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(class, first step, step behind the last) of neighbouring steps of one class, without those of none."""
    start = 0
    for step in range(1, len(step_labels) + 1):
        if step == len(step_labels) or step_labels[step] != step_labels[start]:
            if step_labels[start] >= 0:
                yield step_labels[start], start, step
            start = step


def events(step_labels: Sequence[int], step_seconds: float) -> Iterator[Event]:
    """Neighbouring steps of one class are one instance."""
    for label, start, end in neighbours(step_labels):
        yield Event(label=label, start_seconds=start * step_seconds, end_seconds=end * step_seconds)


def matters(step_labels: Sequence[int], labels: Sequence[int], groups: Sequence[str]) -> list[bool]:
    """Of each step whether it says something about the video's class.

    Arguments:
        step_labels: class that each step shows, -1 for none.
        labels: classes of the video.
        groups: of each class of the set. In a video of a prevailing class every light counts, those of the other
            classes too.
    """
    of_video = {groups[label] for label in labels}
    return [
        shown >= 0 and (shown in labels or (groups[shown] == PREVAILING and PREVAILING in of_video))
        for shown in step_labels
    ]
