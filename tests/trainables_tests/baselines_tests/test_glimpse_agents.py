"""FrameGlimpse and FastForward: their stop; the general contract is tested in test_method_contract.py."""

from __future__ import annotations

import itertools

import pytest
import torch

from paretovid.trainables.catalog import method_config
from paretovid.trainables.errors import UsageError
from paretovid.trainables.testing import run_cached, synthetic_method, synthetic_split, train_briefly

both = pytest.mark.parametrize("name", ["frame_glimpse", "fast_forward"])


@pytest.mark.slow
@both
def test_a_price_teaches_to_stop(name):
    split = synthetic_split(num_videos=64, seed=3)
    steps = []
    for price in (0.0, 0.5):
        method = synthetic_method(name, {"frame_price": price, "steps": 6})
        train_briefly(method, split, steps=80)
        steps.append(
            float(run_cached(method, split, {"stop_threshold": 0.5}).calls[f"{name}.step"].float().mean())
        )
    assert steps[1] < steps[0] - 1


@both
def test_a_lower_threshold_never_looks_longer(name):
    method, split = synthetic_method(name), synthetic_split(num_videos=16)
    reads = [
        run_cached(method, split, {"stop_threshold": t}).calls[f"{name}.step"] for t in (0.3, 0.5, 0.6, 1.0)
    ]
    assert all(bool((later >= earlier).all()) for earlier, later in itertools.pairwise(reads))
    assert bool((reads[-1] == 10).all())


def test_fast_forward_moves_by_its_jumps():
    method = synthetic_method("fast_forward", {"jumps": [0.25], "steps": 4})
    split = synthetic_split(num_videos=3, max_steps=9)
    steps = run_cached(method, split, {"stop_threshold": 1.0}).trace["steps"]
    assert steps[0].tolist() == [0, 2, 4, 6]  # nine steps: a quarter of the way is two


@both
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"jumps": [0.1, 0.0]}, "none of them 0"),
        ({"frame_price": -1.0}, "frame_price"),
        ({"steps": 0}, "from 1"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(name, fields, message):
    with pytest.raises(UsageError) as caught:
        method_config(name, fields)
    assert message in str(caught.value) + caught.value.hint


def test_the_step_that_always_ends_the_walk_teaches_no_stopping():
    """With one step there is nothing to decide, and the policy's loss is zero."""
    from paretovid.trainables.outcome import Batch, Progress

    split = synthetic_split()
    method = synthetic_method("frame_glimpse", {"steps": 1})
    torch.manual_seed(0)
    loss = method.loss(Batch(split.features, split.mask, split.targets, split.video_keys), Progress(0, 1))
    assert loss.parts["policy"] == 0 and loss.parts["steps"] == 1
