"""What every method must fulfil, as checks that a test suite runs over all registered methods.

`synthetic_split` makes features with known structure (needles of evidence in a hay of noise, and a cheap
source that says where they are but not what), so that a check takes milliseconds and needs no video. It is
for tests only: no result of the platform is ever made from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from paretovid.trainables.backbones.catalog import component, family, measure_component
from paretovid.trainables.catalog import build_method, method_class, method_config
from paretovid.trainables.cost import ComponentCost, CostTable, deterministic_eval
from paretovid.trainables.data.readers.annotations import TO_DIVIDE
from paretovid.trainables.data.readers.catalog import read_annotations, reader_config
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.evaluation.results import DataReference, OperatingPoint, TrialResult
from paretovid.trainables.features.store import FeatureSplit
from paretovid.trainables.measurement import MAP, Metrics
from paretovid.trainables.method import (
    Method,
    UsesSourceInfo,
)
from paretovid.trainables.outcome import Batch, Outcome, Progress, Setting, SourceInfo
from paretovid.trainables.plugins.catalog import use_plugins
from paretovid.trainables.provider import FeatureProvider, VideoProvider

NUM_CLASSES = 4
WIDTHS = {"coarse": 8, "fine": 16, "motion": 24, "audio": 8, "appearance": 12, "flow": 20, "difference": 16}
POOL_SIGNAL = {"xs": 0.5, "s": 1.0, "m": 2.0, "l": 4.0}
"""Of models that classify: how far their logits of the true class stand out at a needle of evidence."""
WIDTHS |= dict.fromkeys(POOL_SIGNAL, NUM_CLASSES)
COMPONENTS = {source: f"synthetic_{source}@1" for source in WIDTHS}
MACS = {
    **{"coarse": 100_000, "fine": 10_000_000, "motion": 50_000_000, "audio": 50_000},
    **{"appearance": 4_000_000, "flow": 40_000_000, "difference": 20_000_000},
    **{"xs": 1_000_000, "s": 3_000_000, "m": 9_000_000, "l": 27_000_000},
}
SOURCE_INFO = {source: SourceInfo(gmacs=macs / 1e9, video_share=0.5) for source, macs in MACS.items()}


def synthetic_split(
    num_videos: int = 6,
    max_steps: int = 9,
    num_classes: int = NUM_CLASSES,
    seed: int = 0,
    multi_label: bool = False,
) -> FeatureSplit:
    """Features of `num_videos` videos of unequal length (one of a single step), zero at padded steps."""
    generator = torch.Generator().manual_seed(seed)
    codes = {
        s: torch.randn(num_classes, w, generator=torch.Generator().manual_seed(7)) for s, w in WIDTHS.items()
    }
    labels = torch.randint(num_classes, (num_videos,), generator=generator)
    num_steps = torch.randint(2, max_steps + 1, (num_videos,), generator=generator)
    num_steps[0], num_steps[-1] = max_steps, 1
    mask = torch.arange(max_steps) < num_steps[:, None]
    needle = torch.rand(num_videos, max_steps, generator=generator) < 0.3
    needle[:, 0] |= num_steps == 1
    features = {}
    for source, width in WIDTHS.items():
        signal = torch.ones(1, width) if source == "coarse" else codes[source][labels]
        if source in POOL_SIGNAL:
            signal = POOL_SIGNAL[source] * torch.nn.functional.one_hot(labels, width)
        noise = 0.5 * torch.randn(num_videos, max_steps, width, generator=generator)
        features[source] = (noise + needle[..., None] * signal[:, None]) * mask[..., None]
    targets = torch.nn.functional.one_hot(labels, num_classes).float()
    if multi_label:
        targets[torch.arange(num_videos), (labels + 1) % num_classes] = 1.0
    return FeatureSplit(
        features=features,
        mask=mask,
        num_steps=num_steps,
        targets=targets,
        video_keys=torch.arange(num_videos) * 7919 + 13,
        video_ids=tuple(f"video{i}" for i in range(num_videos)),
    )


def synthetic_method(
    name: str,
    fields: Mapping[str, Any] | None = None,
    num_classes: int = NUM_CLASSES,
    multi_label: bool = False,
    seed: int = 0,
) -> Method:
    """A method with fresh weights over the synthetic sources."""
    fields = dict(fields or {})
    sources = method_class(name).sources_of(method_config(name, fields))
    torch.manual_seed(seed)
    method = build_method(
        name,
        fields,
        widths={source: WIDTHS[source] for source in sources},
        num_classes=num_classes,
        multi_label=multi_label,
    )
    if isinstance(method, UsesSourceInfo):
        method.use_source_info({source: SOURCE_INFO[source] for source in sources})
    return method


def synthetic_costs(method: Method) -> CostTable:
    """Costs of the synthetic sources and of the method's own components."""
    sources = {
        COMPONENTS[s]: ComponentCost(macs=macs, input="synthetic", provenance="made up")
        for s, macs in MACS.items()
    }
    return CostTable({**sources, **method.component_costs()})


def run_cached(method: Method, split: FeatureSplit, setting: Setting) -> Outcome:
    """A run over cached features."""
    provider = FeatureProvider(
        split.features,
        num_steps=split.num_steps,
        video_keys=split.video_keys,
        components=COMPONENTS,
        costs=synthetic_costs(method),
        targets=split.targets,
    )
    with deterministic_eval(method):
        return method.run(provider, setting)


def run_one_by_one(method: Method, split: FeatureSplit, setting: Setting) -> list[Outcome]:
    """A run over each video alone, through the provider of raw videos, with features on demand."""
    outcomes = []
    for i in range(len(split.num_steps)):

        def compute(source: str, step: int, i: int = i) -> Tensor:
            return split.features[source][i, step]

        provider = VideoProvider(
            compute,
            widths=WIDTHS,
            num_steps=int(split.num_steps[i]),
            video_key=int(split.video_keys[i]),
            components=COMPONENTS,
            costs=synthetic_costs(method),
        )
        with deterministic_eval(method):
            outcomes.append(method.run(provider, setting))
    return outcomes


def train_briefly(
    method: Method, split: FeatureSplit, steps: int = 20, learning_rate: float = 1e-2
) -> list[float]:
    """A few steps of training on one batch; returns the losses, none for a method without parameters."""
    if not any(True for _ in method.parameters()):
        return []
    batch = Batch(split.features, split.mask, split.targets, split.video_keys)
    optimizer = torch.optim.Adam(method.parameters(), lr=learning_rate)
    losses = []
    torch.manual_seed(0)
    for step in range(steps):
        loss = method.loss(batch, Progress(step, steps))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    return losses


def synthetic_metrics(
    quality: float = 0.5,
    gflops: float = 1.0,
    *,
    objective: str = MAP,
    calls: Mapping[str, float] | None = None,
) -> Metrics:
    """Figures that nobody has measured: `quality` (fraction) under the objective's name, a constant cost."""
    whole = dict.fromkeys((MAP, "map_present", "map_interpolated"), quality if objective == MAP else 0.0)
    return Metrics(
        objective=objective,
        qualities={objective: quality, **whole},
        top1=0.5,
        gflops=gflops,
        gflops_std=0.0,
        gflops_p95=gflops,
        calls=calls or {},
        videos=8,
    )


def synthetic_result(
    trial: str = "t0000",
    points: Sequence[tuple[float, float]] = ((0.5, 1.0),),
    *,
    objective: str = MAP,
    model: JsonObject | None = None,
) -> TrialResult:
    """A result that nobody has measured.

    Arguments:
        points: quality (fraction) and GFLOPs of each on both splits, the default one first.
        model: any plain data that a test wants to hand through.
    """
    measured = [synthetic_metrics(quality, gflops, objective=objective) for quality, gflops in points]
    return TrialResult(
        trial=trial,
        sweep="synthetic",
        digest="0" * 12,
        method="lite_eval",
        objective=objective,
        is_baseline=False,
        deployable=True,
        seed=0,
        training_knobs={},
        model=model or {},
        training_config={},
        sources={},
        widths={},
        data=DataReference(
            name="synthetic",
            fingerprint="0" * 12,
            features={},
            classes=("zero", "one"),
            multi_label=False,
            step_seconds=0.5,
        ),
        code_version="0" * 12,
        torch_version=torch.__version__,
        costs={},
        accounting="honest",
        parameters=0,
        history=(),
        points=tuple(
            OperatingPoint(
                id=f"{trial}-p{i:02d}",
                index=i,
                is_default=i == 0,
                inference_knobs={},
                val=each,
                test=each,
            )
            for i, each in enumerate(measured)
        ),
        warnings=(),
        seconds=1.0,
    )


def padded_by(split: FeatureSplit, extra: int) -> FeatureSplit:
    """The same videos with `extra` more padded steps, filled with values that must never be used."""
    features = {
        source: torch.cat([values, torch.full((len(values), extra, values.shape[2]), 1e3)], dim=1)
        for source, values in split.features.items()
    }
    mask = torch.cat([split.mask, torch.zeros(len(split.mask), extra, dtype=torch.bool)], dim=1)
    return FeatureSplit(
        features=features,
        mask=mask,
        num_steps=split.num_steps,
        targets=split.targets,
        video_keys=split.video_keys,
        video_ids=split.video_ids,
    )


def reloaded(method: Method, name: str, fields: Mapping[str, Any] | None = None) -> Method:
    """A fresh method with the weights of `method`, by way of safetensors."""
    fresh = synthetic_method(name, fields, seed=123)
    fresh.load_state_dict(load(save({k: v.contiguous() for k, v in method.state_dict().items()})))
    return fresh


class _Contract:
    """What the suites share."""

    plugins: ClassVar[Sequence[str]] = ()
    """Modules to import first, as `plugins=[...]` does; none for a plug-in that is installed."""
    name: ClassVar[str]
    """As it is registered."""

    def setup_method(self) -> None:
        """Makes what the plug-in adds known."""
        use_plugins(self.plugins)


class MethodContract(_Contract):
    """The rules of `Method`; a plug-in's tests inherit them: `class TestMine(MethodContract): name = "mine"`.

    The synthetic sources are coarse, fine, motion, audio, appearance, flow, difference, and xs, s, m, l of a pool.
    """

    fields: ClassVar[Mapping[str, Any]] = {}
    """Of its Config, where they are not the defaults."""
    multi_label: ClassVar[bool] = False

    def trained(self) -> tuple[Method, FeatureSplit]:
        """The method after a few steps of training, and other videos than those."""
        method = synthetic_method(self.name, self.fields, multi_label=self.multi_label)
        train_briefly(method, synthetic_split(seed=1, multi_label=self.multi_label))
        return method, synthetic_split(multi_label=self.multi_label)

    def test_it_keeps_what_its_class_promises(self) -> None:
        """Name, Config, task, knobs: `METHODS` says which rule is broken."""
        assert method_class(self.name).name == self.name

    def test_it_reads_known_sources(self) -> None:
        sources = method_class(self.name).sources_of(method_config(self.name, self.fields))
        assert sources and set(sources) <= set(WIDTHS), f"rule: sources_of names sources; it names {sources}"

    def test_training_lowers_the_loss_and_reaches_every_parameter(self) -> None:
        method = synthetic_method(self.name, self.fields, multi_label=self.multi_label)
        if not any(True for _ in method.parameters()):
            return
        split = synthetic_split(num_videos=24, multi_label=self.multi_label)
        batch = Batch(split.features, split.mask, split.targets, split.video_keys)
        for step in (0, 9):  # what is trained first may be frozen at the end
            method.loss(batch, Progress(step, 10)).total.backward()
        unreached = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
        assert not unreached, f"rule: the loss reaches every parameter; it does not reach {unreached}"
        losses = train_briefly(method, split, steps=40)
        lowered = sum(losses[-5:]) < sum(losses[:5])
        assert lowered, f"rule: training lowers the loss; it went from {losses[0]:.4g} to {losses[-1]:.4g}"

    def test_scores_are_probabilities_and_a_run_repeats_itself(self) -> None:
        method, split = self.trained()
        for setting in method.settings():
            first, second = run_cached(method, split, setting), run_cached(method, split, setting)
            assert first.scores.shape == split.targets.shape, "rule: Outcome.scores is [B, C]"
            inside = bool(((first.scores >= 0) & (first.scores <= 1)).all())
            assert inside, f"rule: Outcome.scores are from 0 to 1; at {setting} they are not"
            assert torch.equal(first.scores, second.scores), (
                f"rule: a run repeats itself; at {setting} it does not"
            )

    def test_padding_changes_nothing(self) -> None:
        method, split = self.trained()
        longer = padded_by(split, 4)
        for setting in method.settings():
            short, long = run_cached(method, split, setting), run_cached(method, longer, setting)
            torch.testing.assert_close(
                short.scores, long.scores, msg=f"rule: padded steps change no score: {setting}"
            )
            for name, count in short.calls.items():
                assert torch.equal(count, long.calls[name]), (
                    f"rule: padded steps cost nothing: {name} at {setting}"
                )

    def test_a_raw_video_gives_the_answers_of_cached_features(self) -> None:
        method, split = self.trained()
        if not method.deployable:
            return
        for setting in method.settings():
            together, alone = run_cached(method, split, setting), run_one_by_one(method, split, setting)
            scores = torch.cat([outcome.scores for outcome in alone])
            rule = f"rule: one video gives what a batch gives: {setting}"
            torch.testing.assert_close(together.scores, scores, atol=1e-5, rtol=1e-5, msg=rule)
            for name, count in together.calls.items():
                each = [int(outcome.calls.get(name, torch.zeros(1))[0]) for outcome in alone]
                assert count.tolist() == each, f"{rule}: {name} was called {count.tolist()} and {each} times"

    def test_every_call_has_a_cost_and_decisions_have_words(self) -> None:
        method, split = self.trained()
        costs = synthetic_costs(method)
        for setting in method.settings():
            outcome = run_cached(method, split, setting)
            assert bool((costs.gflops(outcome.calls) > 0).any()), (
                f"rule: an answer costs something: {setting}"
            )
            assert outcome.decisions.shape == split.mask.shape, "rule: Outcome.decisions is [B, T]"
            most = int(outcome.decisions.max())
            assert most < len(method.reads()), f"rule: reads() has a word for each decision; none for {most}"
            assert not outcome.decisions[~split.mask].any(), "rule: no decision about a padded step"

    def test_settings_begin_at_the_defaults_and_keep_to_the_knobs(self) -> None:
        method = synthetic_method(self.name, self.fields)
        knobs = {knob.name: knob for knob in method.inference_knobs}
        settings = method.settings()
        assert settings, "rule: settings() gives at least one"
        for name, value in settings[0].items():
            assert value == knobs[name].default, (
                f"rule: the first of settings() is the default; {name} is {value}"
            )
        for setting in settings:
            for name, value in setting.items():
                assert name in knobs, f"rule: settings() names inference knobs; {name} is none"
                allowed = value in knobs[name].words if isinstance(value, str) else value in knobs[name].range
                assert allowed, f"rule: settings() keeps to what a knob allows; {name} is {value}"

    def test_its_state_survives_a_file(self) -> None:
        method, split = self.trained()
        setting = method.settings()[0]
        fresh = reloaded(method, self.name, self.fields)
        same = torch.equal(
            run_cached(method, split, setting).scores, run_cached(fresh, split, setting).scores
        )
        assert same, "rule: everything that a run needs is a parameter or a buffer"


class FamilyContract(_Contract):
    """The rules of a family of backbones; a plug-in's tests inherit them."""

    def test_every_component_can_be_built_and_costed(self) -> None:
        for source, name in family(self.name).items():
            spec = component(name)
            backbone = spec.build(NUM_CLASSES).eval()
            with torch.no_grad():
                features = backbone(torch.zeros(2, *spec.input.shape))
            assert features.shape == (2, backbone.width), (
                f"rule: {name} ({source}) gives [B, {backbone.width}], as its feature_width says; {features.shape}"
            )
            assert measure_component(name, NUM_CLASSES).macs > 0, f"rule: a call of {name} costs something"

    def test_an_answer_does_not_depend_on_the_batch(self) -> None:
        for name in family(self.name).values():
            backbone = component(name).build(NUM_CLASSES).eval()
            inputs = 255 * torch.rand(
                3, *component(name).input.shape, generator=torch.Generator().manual_seed(0)
            )
            with torch.no_grad():
                together, alone = backbone(inputs), torch.cat([backbone(each[None]) for each in inputs])
            rule = f"rule: what {name} gives does not depend on the batch"
            torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3, msg=rule)


class ReaderContract(_Contract):
    """The rules of a reader; a plug-in's tests inherit them and write an example of its format."""

    settings: ClassVar[Mapping[str, object]]
    """Of its config; paths are below the folder of the example."""

    def write_example(self, folder: Path) -> None:
        """Writes annotations, and files in the place of videos, into the current folder."""
        raise NotImplementedError

    def test_it_reads_its_example(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        self.write_example(tmp_path)
        found = read_annotations(self.name, reader_config(self.name, dict(self.settings)))
        assert found.videos, "rule: read gives at least one video"
        ids = [video.video_id for video in found.videos]
        assert len(set(ids)) == len(ids), "rule: each video_id once"
        for video in found.videos:
            wrong = [label for label in video.labels if not 0 <= label < len(found.classes)]
            assert not wrong, f"rule: labels are numbers of classes; {video.where} has {wrong}"
            assert video.split in ("train", "val", "test", TO_DIVIDE), (
                f"rule: splits; {video.where}: {video.split}"
            )
            assert video.where, "rule: where names file and line, for messages"
