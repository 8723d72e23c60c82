"""A sampler: of some random configurations the one that is farthest from all that were tried or run."""

from __future__ import annotations

import numpy as np

from paretovid.platform.search.curve_sampler import Cube
from paretovid.platform.search.knob_space import Knobs
from paretovid.platform.search.samplers import Asked
from paretovid.search_spaces.samplers import register_sampler

CANDIDATES = 256


def farthest(asked: Asked, seed: int) -> Knobs:
    """A value for every knob. The same results and seed give the same: all that is random comes from the seed."""
    history, cube = asked.history(), Cube(asked.space)
    # What each finished trial came to lies in `history.finished[i].curve`; this sampler does not look at it.
    tried = cube.units([*(each.knobs for each in history.finished), *history.running])
    candidates = cube.random(CANDIDATES, np.random.default_rng(seed))
    nearest = cube.differences(candidates, tried).sum(axis=0).min(axis=1, initial=np.inf)
    return cube.knobs(candidates[int(np.argmax(nearest))])


register_sampler("farthest", farthest)  # for plugins=[...]; the entry point alone is enough once installed
