"""What the name of a trial's folder says: `t0003` and `uniform` are trials of a sweep, `t0003@seed7` is a training with
the seed 7 that confirms one of them. No name that a user gives holds an `@`.
"""

from __future__ import annotations

_MARK = "@seed"


def confirmation_name(trial: str, seed: int) -> str:
    """The name of the training with this seed that confirms a trial."""
    return f"{trial}{_MARK}{seed}"


def confirmed_trial(name: str) -> str:
    """The trial that a training of this name confirms; empty: it is a trial of its own."""
    trial, mark, _ = name.partition(_MARK)
    return trial if mark else ""


def confirmation_seed(name: str) -> int:
    """The seed of a training that confirms a trial."""
    return int(name.partition(_MARK)[2])


def trial_of(point: str) -> str:
    """The trial that has the operating point of this id: that of `t0003-p05` is `t0003`."""
    return point.rpartition("-p")[0]
