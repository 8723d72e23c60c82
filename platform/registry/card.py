"""The card of a promoted model: what it is, what it was measured to do, how to use it."""

from __future__ import annotations

from collections.abc import Sequence

from paretovid.platform.fronts.front import Front, FrontPoint
from paretovid.platform.fronts.report import mean_text
from paretovid.platform.records.trial import knob_text, objective_text
from paretovid.platform.registry.dial import BUDGET, dial_of, dial_section
from paretovid.platform.registry.gates import Gate
from paretovid.trainables.catalog import method_class
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.evaluation.results import MAP, Metrics
from paretovid.trainables.layers.caps import has_cap
from paretovid.trainables.outcome import InferenceKnob
from paretovid.trainables.recognizer import knobs_of


def model_card(front: Front, point: FrontPoint, name: str, gates: Sequence[Gate]) -> str:
    """Markdown for `README.md` in the model, and for the version's description."""
    return "\n".join(
        [
            f"# {name}: {point.trial.method} at operating point {point.id}",
            "",
            f"Recognizes {len(point.trial.data.classes)} classes in videos, spending compute video by "
            "video. GFLOPs are giga multiply-accumulates per video, as in the papers.",
            "",
            *_numbers(front, point),
            *dial_section(dial_of(point.trial)),
            "",
            *_confirmed(front, point),
            *_provenance(point),
            "",
            "## Gates passed",
            *(f"* {gate.name}: {gate.detail}" for gate in gates),
            "",
            *_usage(point, name),
            "",
        ]
    )


def _numbers(front: Front, point: FrontPoint) -> list[str]:
    val, test = point.record.val, point.record.test
    interval = "-"
    if front.split == "test" and point.quality_ci is not None:
        interval = f"{100 * point.quality_ci[0]:.1f} to {100 * point.quality_ci[1]:.1f}"
    return [
        "## Measured",
        "| | test | validation (used to choose) |",
        "|---|---|---|",
        *_objective(point, interval),
        f"| mAP, present classes | {_percent(test, 'map_present')} | {_percent(val, 'map_present')} |",
        *(f"| {name} | {_percent(test, name)} | {_percent(val, name)} |" for name in test.further),
        f"| top-1 | {100 * test.top1:.2f} % | {100 * val.top1:.2f} % |",
        f"| GFLOPs per video, mean | {test.gflops:.5g} | {val.gflops:.5g} |",
        f"| GFLOPs per video, std | {test.gflops_std:.5g} | {val.gflops_std:.5g} |",
        f"| GFLOPs per video, 95th percentile | {test.gflops_p95:.5g} | {val.gflops_p95:.5g} |",
    ]


def _confirmed(front: Front, point: FrontPoint) -> list[str]:
    """The point under other seeds, if it was confirmed."""
    found = point.confirmation
    if found is None or not (found.seeds or found.failed):
        return []
    name = objective_text(point.trial.objective)
    lines = [f"## Under other seeds ({front.split})"]
    if found.seeds:
        quality, gflops = mean_text(*found.quality, scale=100, digits=2), mean_text(*found.gflops, digits=5)
        ci = found.quality_ci
        videos = "" if ci is None else f"; 95 % interval over videos {100 * ci[0]:.1f} to {100 * ci[1]:.1f}"
        lines += [
            "The same configuration trained with other seeds, measured at the same inference setting. The model's own "
            f"seed ({point.trial.seed}) is not among them: it was chosen for coming out well.",
            "",
            f"* {name}, mean ± standard deviation over {len(found.seeds)} seeds: {quality} %{videos}",
            f"* GFLOPs per video: {gflops}",
            *(
                f"* seed {each.seed}: {name} {100 * each.shown.quality:.2f} %, {each.shown.gflops:.5g} GFLOPs"
                + "".join(f"; {warning}" for warning in each.warnings)
                for each in found.seeds
            ),
        ]
    lines += [f"* seed {seed} failed, and is in no mean: {reason}" for seed, reason in found.failed.items()]
    return [*lines, ""]


def _percent(measured: Metrics, quality: str) -> str:
    value = measured.qualities.get(quality)
    return "-" if value is None else f"{100 * value:.2f} %"


def _objective(point: FrontPoint, interval: str) -> list[str]:
    val, test = point.record.val, point.record.test
    over_videos = f"| 95 % interval over videos | {interval} | - |"
    whole = f"| mAP{{}} (absent classes count 0) | {_percent(test, MAP)} | {_percent(val, MAP)} |"
    if test.objective == MAP:
        return [whole.format(""), over_videos]
    overlaps = [
        f"| {objective_text(name)} | {_percent(test, name)} | {_percent(val, name)} |"
        for name in test.overlaps
        if name != test.objective
    ]
    mean = f"| **{objective_text(test.objective)}** (`{test.objective}`, THUMOS'14 evaluator)"
    return [
        f"{mean} | {100 * test.quality:.2f} % | {100 * val.quality:.2f} % |",
        over_videos,
        *overlaps,
        whole.format(" of whole videos"),
    ]


def _provenance(point: FrontPoint) -> list[str]:
    trial = point.trial
    joined = ", ".join(f"{name} = {knob_text(value)}" for name, value in trial.training_knobs.items())
    trained = ", ".join(f"{name} = {knob_text(value)}" for name, value in trial.training_config.items())
    at = ", ".join(f"{name} = {knob_text(value, 6)}" for name, value in point.record.inference_knobs.items())
    return [
        "## Made of",
        f"* Sweep {trial.sweep}, trial {trial.trial}, seed {trial.seed}",
        f"* Training knobs: {joined or 'none'}",
        *([f"* Trained with: {trained}"] if trained else []),
        f"* Inference knobs (defaults of the parameters below): {at or 'none'}",
        f"* Data: {trial.data.name}, fingerprint {trial.data.fingerprint}",
        f"* Components: {', '.join(f'{source}: {name}' for source, name in trial.sources.items())}",
        f"* Code version {trial.code_version}, accounting: {trial.accounting}",
    ]


def _usage(point: FrontPoint, name: str) -> list[str]:
    knobs = knobs_of(point.trial.method, point.trial.model)
    example = '{"max_gflops": 0.05}' if any(k.name == "max_gflops" for k in knobs) else "{}"
    if knobs and knobs[0].name == BUDGET:
        example = f'{{"{BUDGET}": {knobs[0].default:g}}}'
    return [
        "## Use",
        "```python",
        f'model = mlflow.pyfunc.load_model("models:/{name}@ALIAS")',
        f'model.predict(["a.mp4"], params={example})',
        "```",
        "Paths or bytes of video files in, one mapping per video out: labels with scores, gflops, calls, "
        "steps, stopped_by (end, method or cap: why reading ended; None of a method that does not read by the step), "
        "decode_seconds, compute_seconds, notes, error"
        + (
            ""
            if point.trial.objective == MAP
            else ", and instances (label, start_seconds, end_seconds, score)"
        )
        + ". A file that cannot be read has an error.",
        "",
        'Loaded with `model_config={"on_demand": True}`, a backbone takes memory from the first video that needs it.',
        f"It also takes limits of what a video may ask for: {', '.join(VideoLimitsConfig.names())}.",
        "",
        "Parameters (an unknown name, or a value that is not finite or out of range, is an error):",
        *(f"* `{k.name}` ({_values(k)}): {k.description}" for k in knobs),
        *([] if has_cap(method_class(point.trial.method)) else [_no_cap(point)]),
    ]


def _values(knob: InferenceKnob) -> str:
    return " or ".join(knob.words) if knob.words else f"{knob.low:g} to {knob.high:g}"


def _no_cap(point: FrontPoint) -> str:
    return f"\nThere is no cap per video (`max_gflops`): {method_class(point.trial.method).no_cap}."
