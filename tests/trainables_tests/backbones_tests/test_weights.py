"""Weights of others: where they may come from, what is checked, and what an error says."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from paretovid.trainables.backbones.catalog import component, load_backbone, save_backbone
from paretovid.trainables.backbones.description import BackboneOrigin
from paretovid.trainables.backbones.spec import ComponentSpec
from paretovid.trainables.backbones.weights import build_with_weights, fetch, read_tensors
from paretovid.trainables.errors import DataError, UsageError

SPEC = component("yamnet@64x96")


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A state dict as its authors would publish it: trunk and classifier, other values than ours."""
    torch.manual_seed(5)
    trunk = SPEC.build(1).trunk.state_dict()
    return {**trunk, "classifier.weight": torch.ones(521, 1024), "classifier.bias": torch.zeros(521)}


def saved(folder: Path, content: Any, name: str = "weights.pth") -> str:
    path = folder / name
    torch.save(content, path)
    return str(path)


def assert_loaded(location: str, published: dict[str, Tensor]) -> None:
    backbone, origin = build_with_weights(SPEC, location)
    for name, value in backbone.trunk.state_dict().items():
        assert torch.equal(value, published[name]), name
    assert not backbone.training
    assert origin["weights"] == location
    assert origin["file_sha256"] == hashlib.sha256(Path(location).read_bytes()).hexdigest()


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state", "model"])
def test_a_state_dict_is_found_in_what_scripts_save(
    wrapper: str | None, published: dict[str, Tensor], tmp_path: Path
) -> None:
    content = published if wrapper is None else {wrapper: published, "epoch": 12}
    assert_loaded(saved(tmp_path, content), published)


def test_safetensors_and_the_prefix_of_parallel_training(
    published: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(published, tmp_path / "weights.safetensors")
    assert_loaded(str(tmp_path / "weights.safetensors"), published)
    prefixed = {f"module.{name}": value for name, value in published.items()}
    assert_loaded(saved(tmp_path, {"state_dict": prefixed}), published)


def test_counters_of_old_files_may_be_missing(published: dict[str, Tensor], tmp_path: Path) -> None:
    old = {name: value for name, value in published.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(published)
    assert_loaded(saved(tmp_path, old), published)


def test_the_digest_is_checked(published: dict[str, Tensor], tmp_path: Path) -> None:
    location = saved(tmp_path, published)
    digest = hashlib.sha256(Path(location).read_bytes()).hexdigest()
    build_with_weights(SPEC, location, sha256=digest.upper())
    with pytest.raises(DataError, match=f"has the SHA-256 {digest}, not {'0' * 64}"):
        build_with_weights(SPEC, location, sha256="0" * 64)


def test_what_does_not_fit_is_listed(published: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = dict(published)
    del wrong["layer2.depthwise_conv.conv.weight"]
    wrong["layer15.conv.weight"] = torch.zeros(1)
    wrong["layer1.fused.conv.weight"] = torch.zeros(32, 3, 3, 3)
    with pytest.raises(DataError) as error:
        build_with_weights(SPEC, saved(tmp_path, wrong))
    text = error.value.message
    assert "do not fit yamnet@64x96" in text
    assert "missing: layer2.depthwise_conv.conv.weight;" in text
    assert "unexpected: layer15.conv.weight;" in text
    assert "layer1.fused.conv.weight [32, 3, 3, 3] instead of [32, 1, 3, 3]" in text
    assert "yamnet.pth" in error.value.hint


def test_weights_of_another_network_are_reported_briefly(
    published: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"missing: .* and \d+ more; unexpected: .* and \d+ more") as error:
        build_with_weights(component("shufflenet_3d@16x112"), saved(tmp_path, published))
    assert len(error.value.message) < 1000


class _Runs:
    """Writes a file when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with pytest.raises(DataError, match="neither safetensors nor a plain state dict") as error:
        build_with_weights(SPEC, saved(tmp_path, {"state_dict": _Runs(ran)}))
    assert not ran.exists()
    assert "state_dict" in error.value.hint


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04broken"])
def test_what_is_no_file_of_weights(content: bytes) -> None:
    with pytest.raises(DataError, match=r"it\.pth is neither"):
        read_tensors(content, "it.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], torch.zeros(3)])
def test_tensors_that_are_no_state_dict(content: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no state dict"):
        build_with_weights(SPEC, saved(tmp_path, content))


def test_without_weights_the_error_says_what_to_get() -> None:
    with pytest.raises(UsageError, match="yamnet@64x96 needs weights") as error:
        build_with_weights(SPEC, None)
    for text in ("yamnet.pth", "w-hc/torch_audioset", "backbones.weights.audio=", "docs/backbones.md"):
        assert text in error.value.hint


def test_random_weights_are_the_same_everywhere_and_move_no_seed(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, origin = build_with_weights(SPEC, "random")
    assert torch.equal(torch.rand(1), expected) and origin == {"weights": "random"}
    torch.manual_seed(2)
    again, _ = build_with_weights(SPEC, "random")
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize("name", ["yamnet@64x96", "mobilenet_v2@112", "resnet50@224"])
def test_features_of_random_weights_fit_into_half_precision(name: str) -> None:
    backbone, _ = build_with_weights(component(name), "random")
    spec = component(name).input
    inputs = torch.randn(2, *spec.shape)
    with torch.no_grad():
        features = backbone(inputs if spec.kind == "logmel" else 127.5 + 50 * inputs).half()
    assert bool(torch.isfinite(features).all())
    assert 0.01 < float(features.float().std()) < 100
    assert float((features[0] - features[1]).abs().max()) > 0


def test_a_loaded_backbone_survives_its_folder(published: dict[str, Tensor], tmp_path: Path) -> None:
    backbone, origin = build_with_weights(SPEC, saved(tmp_path, published))
    save_backbone(tmp_path / "kept", SPEC.name, backbone, BackboneOrigin(training=origin))
    loaded, described = load_backbone(tmp_path / "kept")
    assert described.origin.training == origin
    sound = torch.randn(2, 64, 96)
    with torch.no_grad():
        assert torch.equal(loaded(sound), backbone(sound))


# Where they come from


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def do_GET(self) -> None:
            if self.path == "/short.pth":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"less")
                return
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_a_url_is_fetched(server: str, published: dict[str, Tensor], tmp_path: Path) -> None:
    saved(tmp_path, published)
    backbone, origin = build_with_weights(SPEC, f"{server}/weights.pth")
    assert origin["weights"] == f"{server}/weights.pth"
    name = "layer1.fused.conv.weight"
    assert torch.equal(backbone.trunk.state_dict()[name], published[name])


def test_a_url_that_fails(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answers 404"):
        fetch(f"{server}/nothing.pth")
    with pytest.raises(DataError, match=r"short.pth: .*4 bytes read, 996 more"):
        fetch(f"{server}/short.pth")
    with pytest.raises(DataError, match=r"cannot be read from http://127\.0\.0\.1:9"):
        fetch("http://127.0.0.1:9/weights.pth")


def test_a_path_or_scheme_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.pth: No such file"):
        fetch(str(tmp_path / "no.pth"))
    with pytest.raises(DataError, match="Is a directory"):
        fetch(str(tmp_path))
    with pytest.raises(UsageError, match="cannot be fetched from 'ftp://"):
        fetch("ftp://host/weights.pth")


@pytest.mark.parametrize(
    ("name", "build", "head"),
    [
        ("mobilenet_v2@112", "mobilenet_v2", "classifier.1.weight"),
        ("mobilenet_v3_small@224", "mobilenet_v3_small", "classifier.3.bias"),
        ("efficientnet_b0@224", "efficientnet_b0", "classifier.1.weight"),
        ("resnet50_v1@224", "resnet50", "fc.weight"),
    ],
)
def test_a_whole_network_of_torchvision_fits_without_its_classifier(
    name: str, build: str, head: str, tmp_path: Path
) -> None:
    import torchvision

    whole = torchvision.models.get_model(build, weights=None).state_dict()
    assert head in whole
    check_fits(component(name), whole, tmp_path)


@pytest.mark.parametrize("name", ["x3d_xs@4x160", "slowfast_8x8_r50@32x256"])
def test_a_whole_network_of_pytorchvideo_fits_without_its_classifier(name: str, tmp_path: Path) -> None:
    from pytorchvideo.models.slowfast import create_slowfast
    from pytorchvideo.models.x3d import create_x3d

    whole = create_x3d(input_clip_length=4, input_crop_size=160) if "x3d" in name else create_slowfast()
    check_fits(component(name), {"model_state": whole.state_dict()}, tmp_path)


def test_a_whole_network_of_timm_fits_without_its_classifier(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    check_fits(component("dpn107@224"), timm.create_model("dpn107").state_dict(), tmp_path)


def check_fits(spec: ComponentSpec, content: Any, folder: Path) -> None:
    location = saved(folder, content)
    backbone, _ = build_with_weights(spec, location, num_classes=1000 if spec.input.kind == "frame" else 400)
    whole = content.get("model_state", content)
    for name, value in backbone.trunk.state_dict().items():
        assert torch.equal(value, whole[name]), name
    if spec.classifies:
        assert spec.weights is not None
        for name, value in backbone.head[-1].state_dict().items():
            assert torch.equal(value, whole[f"{spec.weights.head_layer}{name}"])
        with pytest.raises(DataError, match=r"tells \d+ classes apart, the data set has 12") as error:
            build_with_weights(spec, location, num_classes=12)
        assert "trained on these classes" in error.value.hint
        begun, _ = build_with_weights(spec, location, num_classes=12, with_classifier=False)
        assert begun.head[-1].out_features == 12, "to be fine-tuned on classes of one's own"
