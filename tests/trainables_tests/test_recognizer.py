"""The recognizer on raw videos: lazy, counted, and never stopped by one bad file."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.odd_videos import CASES

from paretovid.trainables import recognizer as module
from paretovid.trainables.backbones.catalog import FAMILIES, component, measure_component, save_backbone
from paretovid.trainables.catalog import build_method
from paretovid.trainables.data.limits import VideoLimitsConfig
from paretovid.trainables.data.moving_digits.generate import MovingDigitsConfig, make_moving_digits
from paretovid.trainables.data.videos import VideoReader
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import DataError, UnknownNameError, UsageError
from paretovid.trainables.methods.lite_eval import LiteEval
from paretovid.trainables.model_description import ModelDescription
from paretovid.trainables.recognizer import (
    CHEAPEST_ONLY,
    BackbonesOnDemand,
    Recognizer,
    checked_setting,
    write_model_folder,
)
from paretovid.trainables.testing import synthetic_method
from paretovid.trainables.trial import cost_table


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    config = MovingDigitsConfig(videos_train=1, videos_val=1, videos_test=2, min_seconds=3.0, max_seconds=3.0)
    dataset = make_moving_digits(config, tmp_path_factory.mktemp("data"))
    return [Path(dataset.video_path(record)) for record in dataset.split("test")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    sources = {source: FAMILIES["small"][source] for source in ("coarse", "fine")}
    torch.manual_seed(0)
    for source, name in sources.items():
        save_backbone(root / source, name, component(name).build(4).eval())
    widths = {source: component(name).feature_width for source, name in sources.items()}
    method = build_method("lite_eval", {}, widths=widths, num_classes=4, multi_label=False)
    save_file(
        {name: value.contiguous() for name, value in method.state_dict().items()}, root / "w.safetensors"
    )
    description = {
        "method": "lite_eval",
        "config": {},
        "sources": sources,
        "widths": widths,
        "costs": cost_table(method, sources, "honest").to_json(),
        "classes": ["a", "b", "c", "d"],
        "multi_label": False,
        "step_seconds": 0.5,
        "setting": {"gate_offset": -100.0, "online_k": 0},
    }
    write_model_folder(
        root / "model",
        ModelDescription.from_json(description),
        root / "w.safetensors",
        {s: root / s for s in sources},
    )
    return root / "model"


@pytest.fixture(scope="module")
def dialled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    """The same backbones under gates that are closed at the lowest budget and open at the highest."""
    root = tmp_path_factory.mktemp("dialled")
    fields: JsonObject = {"condition": "budget", "budget_low": 0.05, "budget_high": 0.5}
    plain = ModelDescription.read(folder)
    method = build_method("lite_eval", fields, widths=plain.widths, num_classes=4, multi_label=False)
    weights = dict(method.state_dict())
    weights["gate.terms.1.bias"] = torch.tensor([0.0, 100.0])
    save_file(weights, root / "w.safetensors")
    described = dataclasses.replace(plain, config=fields, setting={"budget": 0.05, "gate_offset": 0.0})
    backbones = {source: folder / "backbones" / source for source in plain.sources}
    write_model_folder(root / "model", described, root / "w.safetensors", backbones)
    return Recognizer.load(root / "model")


@pytest.fixture
def recognizer(folder: Path) -> Recognizer:
    return Recognizer.load(folder)


def test_cost_is_calls_times_cost(recognizer: Recognizer, videos: list[Path]) -> None:
    cheap, expensive = (recognizer.predict(videos[:1], {"gate_offset": offset})[0] for offset in (-100, 100))
    assert set(cheap.steps) == {"coarse"} and set(expensive.steps) == {"fine"} and len(expensive.steps) == 6
    fine = FAMILIES["small"]["fine"]
    assert fine not in cheap.calls and expensive.calls[fine] == 6
    assert expensive.gflops - cheap.gflops > 6 * measure_component(fine).gmacs
    assert (
        [label for label, _ in expensive.labels] != []
        and expensive.compute_seconds > 0
        and expensive.decode_seconds > 0
    )


def test_a_model_with_a_dial_spends_by_the_budget(dialled: Recognizer, videos: list[Path]) -> None:
    as_promoted, low, high = (
        dialled.predict(videos[:1], setting)[0] for setting in (None, {"budget": 0.05}, {"budget": 0.5})
    )
    assert as_promoted.labels == low.labels and set(low.steps) == {"coarse"} and set(high.steps) == {"fine"}
    assert high.gflops > low.gflops
    for budget in (0.049, 0.51):
        with pytest.raises(UsageError, match=f"budget cannot be {budget}") as error:
            dialled.predict(videos[:1], {"budget": budget})
        assert "from 0.05 to 0.5" in error.value.hint


def test_a_model_of_one_budget_knows_no_other(recognizer: Recognizer, videos: list[Path]) -> None:
    with pytest.raises(UnknownNameError, match="budget"):
        recognizer.predict(videos[:1], {"budget": 0.1})


def test_only_what_is_asked_for_is_decoded(
    recognizer: Recognizer, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = VideoReader.read

    def watched(self: VideoReader, step: int, spec: Any) -> Any:
        read.append(step)
        return original(self, step, spec)

    monkeypatch.setattr(VideoReader, "read", watched)
    (answer,) = recognizer.predict(videos[:1], {"gate_offset": 100, "online_k": 2})
    assert sorted(set(read)) == [0, 1] and len(read) == 4  # both sources of two steps, then it answers
    assert answer.steps == ("fine", "fine", "none", "none", "none", "none")


def test_bytes_and_paths_give_the_same(recognizer: Recognizer, videos: list[Path]) -> None:
    by_path, by_bytes = recognizer.predict([videos[0], videos[0].read_bytes()])
    assert by_path.labels == by_bytes.labels and by_bytes.path == "<bytes>"


def test_a_bad_video_does_not_stop_others(recognizer: Recognizer, videos: list[Path], tmp_path: Path) -> None:
    words, empty = tmp_path / "words.mp4", tmp_path / "empty.mp4"
    words.write_text("not a video")
    empty.touch()
    answers = recognizer.predict([words, videos[0], empty, tmp_path / "missing.mp4", tmp_path, b"noise"])
    assert [answer.error is None for answer in answers] == [False, True, False, False, False, False]
    assert "words.mp4" in (answers[0].error or "") and answers[0].labels == () and answers[0].gflops == 0


def test_features_are_rounded_as_they_were_stored(folder: Path, videos: list[Path]) -> None:
    exact, rounded = Recognizer.load(folder), Recognizer.load(folder)
    rounded._dtype = torch.float16
    first, second = (r.predict(videos[:1], {"gate_offset": 100})[0] for r in (exact, rounded))
    assert first.labels != second.labels
    assert dict(first.labels)["a"] == pytest.approx(dict(second.labels)["a"], abs=1e-2)


def test_the_answer_says_why_reading_ended(recognizer: Recognizer, videos: list[Path]) -> None:
    always = {"gate_offset": 100}
    (whole,) = recognizer.predict(videos[:1], always)
    assert (whole.stopped_by, whole.notes) == ("end", ())
    assert whole.to_json()["stopped_by"] == "end"
    (capped,) = recognizer.predict(videos[:1], {**always, "max_gflops": whole.gflops / 2})
    assert capped.stopped_by == "cap" and "fine" in capped.steps and capped.notes == ()
    (coarse,) = recognizer.predict(videos[:1], {"gate_offset": -100})
    assert coarse.gflops < whole.gflops / len(whole.steps)  # all coarse reads cost less than one close read
    for rule, looked in (("stop", 1), ("cheap", len(whole.steps))):
        tight = {**always, "max_gflops": coarse.gflops, "cap_rule": rule}
        (answer,) = recognizer.predict(videos[:1], tight)
        assert answer.stopped_by == "cap" and answer.gflops <= coarse.gflops
        assert sum(word == "coarse" for word in answer.steps) == looked and "fine" not in answer.steps
        assert [note.startswith(f"{CHEAPEST_ONLY} coarse") for note in answer.notes] == [True]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, True, -1.0, [1]])
def test_impossible_values(value: Any) -> None:
    with pytest.raises(UsageError, match="max_gflops cannot be"):
        checked_setting(LiteEval.inference_knobs, {"max_gflops": value}, {})


def test_settings_fall_back_to_the_point_then_to_the_knob() -> None:
    setting = checked_setting(LiteEval.inference_knobs, {"online_k": 3}, {"gate_offset": -1.5})
    assert setting == {"online_k": 3.0, "gate_offset": -1.5, "max_gflops": 0.0, "cap_rule": "stop"}
    assert checked_setting(LiteEval.inference_knobs, {"cap_rule": "cheap"}, {})["cap_rule"] == "cheap"
    for value in ("both", 1, None, ["stop"]):
        with pytest.raises(UsageError, match="cap_rule cannot be") as refused:
            checked_setting(LiteEval.inference_knobs, {"cap_rule": value}, {})
        assert "stop or cheap" in refused.value.hint
    with pytest.raises(UsageError, match="online_k"):
        checked_setting(LiteEval.inference_knobs, {"online_k": 2.5}, {})
    with pytest.raises(UnknownNameError) as error:
        checked_setting(LiteEval.inference_knobs, {"max_glops": 1}, {})
    assert "'max_gflops'" in error.value.hint


def test_a_pools_weights_are_read_when_a_video_needs_them(tmp_path: Path, videos: list[Path]) -> None:
    sources = FAMILIES["x3d_pool"]
    torch.manual_seed(0)
    for source, name in sources.items():
        save_backbone(tmp_path / source, name, component(name).build(4).eval())
    method = build_method(
        "model_selection", {}, widths=dict.fromkeys(sources, 4), num_classes=4, multi_label=False
    )
    save_file(
        {name: value.contiguous() for name, value in method.state_dict().items()}, tmp_path / "w.safetensors"
    )
    description = {
        "method": "model_selection",
        "config": {},
        "sources": sources,
        "widths": dict.fromkeys(sources, 4),
        "costs": cost_table(method, sources, "honest", 4).to_json(),
        "classes": ["a", "b", "c", "d"],
        "multi_label": False,
        "step_seconds": 0.5,
        "setting": {},
    }
    write_model_folder(
        tmp_path / "model",
        ModelDescription.from_json(description),
        tmp_path / "w.safetensors",
        {s: tmp_path / s for s in sources},
    )
    eager, lazy = (Recognizer.load(tmp_path / "model", on_demand=flag) for flag in (False, True))
    assert isinstance(lazy.backbones, BackbonesOnDemand) and lazy.backbones.loaded == ()
    (cheap,) = lazy.predict(videos[:1], {"theta": 0.0})
    assert lazy.backbones.loaded == ("xs",) and set(cheap.calls) == {
        sources["xs"],
        "model_selection.selector",
    }
    assert set(cheap.steps) == {"none", "xs"} and len(cheap.reads) == 3
    with torch.no_grad():
        for each in (lazy, eager):
            each.method.get_parameter("selectors.second_bias")[0, 0, 3] = 99.0
    (expensive,) = lazy.predict(videos[:1])
    assert lazy.backbones.loaded == ("xs", "l") and set(expensive.steps) == {"none", "l"}
    assert [source for source, _ in expensive.reads] == ["xs"] * 3 + [
        "l"
    ] * 3  # the cheap one first, then one other
    assert eager.predict(videos[:1])[0].labels == expensive.labels
    lazy.backbones.unload()
    assert lazy.backbones.loaded == () and lazy.predict(videos[:1])[0].labels == expensive.labels


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a model folder"):
        Recognizer.load(tmp_path)


def test_knobs_of_a_method() -> None:
    assert module.knobs_of("lite_eval") == type(synthetic_method("lite_eval")).inference_knobs


def test_a_call_of_odd_files_answers_those_that_can_be_read(folder: Path, tmp_path: Path) -> None:
    undecodable = tmp_path / "a.mp4"
    undecodable.write_bytes((CASES / "plain.mp4").read_bytes().replace(b"avc1", b"xyz1"))
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    names = ["apac_only.mp4", "change.ts", "damaged_audio.mkv", "twice.ts", "far.mkv", "transpose.mp4"]
    limited = Recognizer.load(folder, limits=VideoLimitsConfig(max_steps=100))
    *odd, first, second = limited.predict([*(CASES / name for name in names), undecodable, pipe])
    assert [each.error is None for each in odd] == [name != "far.mkv" for name in names]
    assert odd[4].error is not None and "max_steps=100" in odd[4].error
    # It sees only: what is odd in the sound is nothing to it.
    assert odd[0].notes == odd[1].notes == () and "mirrored" in odd[5].notes[0] and len(odd[3].steps) == 16
    assert first.error is not None and "codec xyz1" in first.error and "a.mp4" in first.error
    assert second.error is not None and "pipe" in second.error


@pytest.mark.slow
@pytest.mark.parametrize("raised", [MemoryError(), RuntimeError("not enough memory: you tried to allocate")])
def test_too_little_memory_for_one_video_is_that_videos(
    recognizer: Recognizer, videos: list[Path], monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """Injected in what runs the method: no video of a test takes all memory."""
    read = Recognizer._read

    def fail_once(self: Recognizer, reader: VideoReader, *rest: Any) -> Any:
        if reader.name == str(videos[0]):
            raise raised
        return read(self, reader, *rest)

    monkeypatch.setattr(Recognizer, "_read", fail_once)
    bad, good = recognizer.predict(videos)
    assert bad.error == f"{videos[0]}: {type(raised).__name__}: {raised}" and good.error is None
