"""LiteEval's own mathematics; the general contract is tested in test_method_contract.py."""

from __future__ import annotations

import pytest
import torch
from tests.lowest import is_pinned

from paretovid.trainables.catalog import method_config
from paretovid.trainables.errors import UsageError
from paretovid.trainables.layers.caps import STOPPED_BY
from paretovid.trainables.layers.conditioned.gates import Given, Sampled
from paretovid.trainables.layers.recurrent import Cell, synchronize
from paretovid.trainables.methods.lite_eval import LiteEval
from paretovid.trainables.outcome import Batch, Progress
from paretovid.trainables.testing import (
    padded_by,
    run_cached,
    synthetic_costs,
    synthetic_method,
    synthetic_split,
    train_briefly,
)


def test_synchronisation_replaces_the_first_entries_of_hidden_and_cell_state():
    fine, coarse = torch.arange(10.0).reshape(2, 1, 5), -torch.ones(2, 1, 2)
    assert synchronize(fine, coarse).tolist() == [[[-1, -1, 2, 3, 4]], [[-1, -1, 7, 8, 9]]]


def test_an_lstm_cell_is_pytorchs():
    cell = Cell("lstm", 3, 4)
    inputs, state = torch.randn(2, 3), torch.randn(2, 2, 4)
    hidden, memory = cell.cell(inputs, (state[0], state[1]))
    assert torch.equal(cell(inputs, state), torch.stack([hidden, memory]))


def test_the_penalty_over_videos_is_that_of_the_batch_plus_the_variance():
    usage = torch.tensor([0.1, 0.5, 0.3])
    batch, video = (
        synthetic_method("lite_eval", {"target_usage": 0.2, "usage_reduction": reduction})
        for reduction in ("batch", "video")
    )
    assert isinstance(batch, LiteEval) and isinstance(video, LiteEval)
    mean, each = batch._usage_penalty(usage), video._usage_penalty(usage)
    assert float(mean) == pytest.approx(0.01)
    assert float(each) == pytest.approx(float(mean + usage.var(unbiased=False)))


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.15, 0.6])
def test_training_drives_the_usage_towards_its_target(target):
    method = synthetic_method("lite_eval", {"target_usage": target, "usage_weight": 8.0})
    split = synthetic_split(num_videos=64, seed=3)
    train_briefly(method, split, steps=150)
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    usage = torch.tensor([method.loss(batch, Progress(1, 2)).parts["usage"] for _ in range(10)]).mean()
    assert float(usage) == pytest.approx(target, abs=0.1)


def test_a_higher_gate_offset_never_looks_less_at_the_first_step_and_costs_more_over_all():
    method, split = synthetic_method("lite_eval"), synthetic_split(num_videos=32)
    never, always = (run_cached(method, split, {"gate_offset": offset}) for offset in (-100.0, 100.0))
    assert not (never.decisions == 2).any()
    assert torch.equal((always.decisions == 2).sum(dim=1), split.num_steps)


def test_online_k_stops_right_after_the_kth_close_read():
    method, split = synthetic_method("lite_eval"), synthetic_split(num_videos=32)
    outcome = run_cached(method, split, {"gate_offset": 100.0, "online_k": 2})
    assert (outcome.decisions == 2).sum(dim=1).tolist() == split.num_steps.clamp(max=2).tolist()
    assert (outcome.decisions > 0).sum(dim=1).tolist() == split.num_steps.clamp(max=2).tolist()


def test_no_video_passes_its_cap_and_the_cap_is_used():
    method, split = synthetic_method("lite_eval"), synthetic_split(num_videos=32)
    costs = synthetic_costs(method)
    free = costs.gflops(run_cached(method, split, {"gate_offset": 100.0}).calls)
    for cap in (0.0002, 0.011, 0.025, 0.05):
        for rule in ("stop", "cheap"):
            setting = {"gate_offset": 100.0, "max_gflops": cap, "cap_rule": rule}
            spent = costs.gflops(run_cached(method, split, setting).calls)
            assert bool((spent <= cap).all())
            # A fine read that was not made would not have fitted, or there was none left to make.
            assert bool(((spent + 0.0102 > cap) | (spent == free)).all())


def test_a_refused_read_ends_a_video_or_is_left_out_alone():
    method, split = synthetic_method("lite_eval"), synthetic_split()
    at_two = {"gate_offset": 100.0, "max_gflops": 0.025}
    stopped, cheap = (run_cached(method, split, {**at_two, "cap_rule": rule}) for rule in ("stop", "cheap"))
    assert split.num_steps[0] == 9 and split.num_steps[-1] == 1
    assert stopped.decisions[0].tolist() == [2, 2, 1, *[0] * 6]
    assert cheap.decisions[0].tolist() == [2, 2, *[1] * 7]
    assert torch.equal(run_cached(method, split, at_two).scores, stopped.scores)
    for outcome in (stopped, cheap):
        assert outcome.stopped_by is not None
        assert [STOPPED_BY[i] for i in outcome.stopped_by.tolist()][:: len(split.num_steps) - 1] == [
            "cap",
            "end",
        ]
    assert torch.equal(stopped.scores[-1], cheap.scores[-1]) and not torch.equal(stopped.scores, cheap.scores)


def test_online_k_is_the_methods_own_end():
    method, split = synthetic_method("lite_eval"), synthetic_split()
    outcome = run_cached(method, split, {"gate_offset": 100.0, "online_k": 1})
    assert outcome.stopped_by is not None
    words = [STOPPED_BY[i] for i in outcome.stopped_by.tolist()]
    assert words == ["end" if steps == 1 else "method" for steps in split.num_steps.tolist()]


def test_a_cap_below_one_coarse_read_says_what_the_cheapest_answer_costs():
    method, split = synthetic_method("lite_eval"), synthetic_split()
    with pytest.raises(UsageError, match="does not pay") as error:
        run_cached(method, split, {"max_gflops": 1e-5})
    assert "0.0001" in error.value.hint


def test_paper_accounting_counts_one_gate_of_four():
    method = synthetic_method("lite_eval")
    assert isinstance(method, LiteEval)
    network = method.config.network
    width = network.coarse_projection + network.fine_projection
    paper = method.paper_component_costs({})["lite_eval.fine_rnn"].macs
    assert paper == network.fine_hidden * (width + network.fine_hidden + 1)
    honest = method.component_costs()["lite_eval.fine_rnn"].macs
    projection = 16 * network.fine_projection
    assert honest == projection + 4 * network.fine_hidden * (width + network.fine_hidden)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_usage": 1.5}, r"target_usage must be in \[0, 1\], not 1.5"),
        ({"target_usage": "often"}, "must be float"),
        ({"gamma": 0.1}, "unknown setting of method lite_eval: 'gamma'"),
        ({"online_ks": [0, 1]}, r"online_ks\[0\] must be in \[1, 10000\]"),
        ({"online_ks": [2, 2]}, "online_ks cannot be"),
        ({"gate_offsets": []}, "gate_offsets cannot be"),
        ({"usage_reduction": "frame"}, "Allowed: batch, video"),
        ({"network": {"coarse_hidden": 128}}, "must be smaller than fine_hidden"),
        ({"network": {"cell": "rnn"}}, "Allowed: lstm, gru"),
    ],
)
def test_a_bad_configuration_says_what_is_allowed(fields, message):
    with pytest.raises(UsageError, match=message):
        method_config("lite_eval", fields)


@pytest.mark.slow
def test_padding_changes_neither_logits_nor_usage_in_training():
    method, split = synthetic_method("lite_eval"), synthetic_split()
    assert isinstance(method, LiteEval)
    method.eval()
    longer = padded_by(split, 3)

    def every_other(mask: torch.Tensor) -> Given:
        return Given(use=(torch.arange(mask.shape[1]) % 2 == 0).expand_as(mask))

    logits, usage = method.network.train_through(split.features, split.mask, [every_other(split.mask)])
    padded_logits, padded_usage = method.network.train_through(
        longer.features, longer.mask, [every_other(longer.mask)]
    )
    torch.testing.assert_close(logits, padded_logits)
    torch.testing.assert_close(usage, padded_usage)
    expected = [sum(t % 2 == 0 for t in range(n)) / n for n in split.num_steps.tolist()]
    assert usage[:, 0].tolist() == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.skipif(not is_pinned("torch"), reason="a seed trains other weights with another torch")
def test_results_of_a_seed_stay_what_they_were_before_levels_became_general():
    """Written down from the two-level code that `trainables/layers/gated_stack.py` replaced; checkpoints must load
    as before."""
    method = synthetic_method("lite_eval")
    losses = train_briefly(method, synthetic_split(num_videos=24, seed=1), steps=20)
    assert (losses[0], losses[-1]) == pytest.approx((1.5407822132110596, 0.5565710067749023), rel=1e-5)
    split = synthetic_split(num_videos=12, seed=2)
    default = run_cached(method, split, {"gate_offset": 0.0, "online_k": 0})
    assert default.scores[0].tolist() == pytest.approx([0.490737, 0.455695, 0.036709, 0.016858], abs=2e-5)
    assert default.scores[5].tolist() == pytest.approx([0.228041, 0.521319, 0.223490, 0.027150], abs=2e-5)
    assert default.decisions[0].tolist() == [1, 1, 2, 1, 1, 1, 1, 1, 1]
    assert {name: int(count.sum()) for name, count in default.calls.items()} == {
        "synthetic_coarse@1": 78,
        "synthetic_fine@1": 13,
        "lite_eval.coarse_rnn": 78,
        "lite_eval.gate": 78,
        "lite_eval.fine_rnn": 13,
        "lite_eval.head": 12,
    }
    capped = run_cached(method, split, {"gate_offset": 2.0, "max_gflops": 0.03, "cap_rule": "cheap"})
    assert capped.scores[0].tolist() == pytest.approx([0.662891, 0.316799, 0.019591, 0.000719], abs=2e-5)
    assert capped.decisions[0].tolist() == [2, 1, 1, 2, 1, 1, 1, 1, 1]  # the cap ends close reads only
    for k, first, looked in (
        (1, [0.060512, 0.314010, 0.560431, 0.065047], 25),
        (2, [0.187318, 0.761455, 0.047368, 0.003859], 86),
    ):
        online = run_cached(method, split, {"gate_offset": 2.0, "online_k": k})
        assert online.scores[0].tolist() == pytest.approx(first, abs=2e-5)
        assert int(online.decisions.sum()) == looked


def test_parameters_keep_the_names_that_checkpoints_have():
    projection = [f"layers.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")]
    cell = [f"cell.{part}_{gates}" for part in ("weight", "bias") for gates in ("ih", "hh")]
    names = [f"network.project_{s}.{part}" for s in ("coarse", "fine") for part in projection]
    names += [f"network.{s}.{part}" for s in ("coarse", "fine") for part in cell]
    names += ["network.head.weight", "network.head.bias", "gate.weight", "gate.bias"]
    assert list(synthetic_method("lite_eval").state_dict()) == names
    assert list(synthetic_method("random_gate").state_dict()) == names[:-2]


def test_the_temperature_reaches_its_floor_at_sixty_percent(monkeypatch):
    seen: list[float] = []

    def noted(*, gate: torch.nn.Linear, temperature: float) -> Sampled:
        seen.append(temperature)
        return Sampled(gate=gate, temperature=temperature)

    monkeypatch.setattr("paretovid.trainables.layers.conditioned.budget.Sampled", noted)
    method, split = synthetic_method("lite_eval", {"temperature_floor": 0.25}), synthetic_split()
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    for step in (0, 30, 60, 100):
        seen.clear()
        method.loss(batch, Progress(step, 101))
        assert seen[0] == pytest.approx({0: 1.0, 30: 0.5, 60: 0.25, 100: 0.25}[step])
