"""Weights of others: where they may come from, what is checked, and what an error says."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import os
import threading
import zipfile
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
SIGNATURE = "c2lnbmF0dXJl"


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


@pytest.mark.slow
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


@pytest.mark.slow
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
            if self.path == "/endless.pth":
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(bytes(1000))
                return
            path, _, query = self.path.partition("?")
            if path.startswith("/signed") and query != "X-Amz-Signature=" + SIGNATURE:
                self.send_error(403)
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


def test_a_signature_is_used_and_neither_recorded_nor_shown(
    server: str, published: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, published, "signed.pth")
    url = f"{server}/signed.pth"
    _, origin = build_with_weights(SPEC, f"{url}?X-Amz-Signature={SIGNATURE}")
    assert origin["weights"] == url
    with pytest.raises(DataError, match="answers 403") as raised:
        fetch(f"{url}?X-Amz-Signature=expired-one")
    assert "expired-one" not in str(raised.value) and "PARETOVID_SIGNED_URLS" in raised.value.hint
    # As a resumed sweep has it: the signature comes from the file that the environment names.
    names = tmp_path / "urls.txt"
    names.write_text(f"https://elsewhere/x.pth?sig=other\n\n{url}?X-Amz-Signature={SIGNATURE}\n")
    monkeypatch.setenv("PARETOVID_SIGNED_URLS", str(names))
    assert fetch(url) == (tmp_path / "signed.pth").read_bytes()
    monkeypatch.setenv("PARETOVID_SIGNED_URLS", str(tmp_path / "none.txt"))
    with pytest.raises(UsageError, match=r"signed URLs .*none\.txt cannot be read: No such file"):
        fetch(url)


@pytest.mark.parametrize("url", ["http://me:pass-word@127.0.0.1:9/x", "http://127.0.0.1:9/x y?sig=pass-word"])
def test_what_urllib_says_of_a_url_is_shown_without_its_secrets(url: str) -> None:
    with pytest.raises(DataError, match="cannot be read") as raised:
        fetch(url)
    assert "pass-word" not in str(raised.value)


def test_a_url_that_fails(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answers 404"):
        fetch(f"{server}/nothing.pth")
    with pytest.raises(DataError, match=r"short.pth: .*4 bytes read, 996 more"):
        fetch(f"{server}/short.pth")
    with pytest.raises(DataError, match=r"cannot be read from http://127\.0\.0\.1:9"):
        fetch("http://127.0.0.1:9/weights.pth")


def test_a_file_that_is_too_large_is_not_read(
    server: str, published: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Path(saved(tmp_path, published)).stat().st_size
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    for location in (str(tmp_path / "weights.pth"), f"{server}/weights.pth"):
        with pytest.raises(DataError, match=r"the weights at .* GB, allowed are") as caught:
            build_with_weights(SPEC, location, max_gigabytes=(size - 1) / 1e9)
        assert "backbones.max_weights_gigabytes" in caught.value.hint
    assert len(fetch(f"{server}/weights.pth", size)) == size


def test_an_answer_without_a_stated_size_ends_at_the_limit(server: str) -> None:
    with pytest.raises(DataError, match="more than 1e-05 GB"):
        fetch(f"{server}/endless.pth", 10_000)


def test_pipes_and_devices_are_no_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(DataError, match="are a named pipe, not a file"):
        fetch(str(tmp_path / "weights.pth"))
    with pytest.raises(DataError, match="are a device, not a file"):
        fetch("/dev/zero")


def test_an_archive_that_unpacks_to_a_thousand_times_its_size(tmp_path: Path) -> None:
    plain = saved(tmp_path, {"w": torch.zeros(4_000_000)})
    packed = io.BytesIO()
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.infolist():
            archive.writestr(entry.filename, source.read(entry))
    with pytest.raises(DataError, match=r"packed\.pth has 1\d{4} bytes and unpacks to 16\d{6}"):
        read_tensors(packed.getvalue(), "packed.pth")
    assert read_tensors(Path(plain).read_bytes(), "plain.pth")["w"].shape == (4_000_000,)


def test_a_path_or_scheme_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.pth: No such file"):
        fetch(str(tmp_path / "no.pth"))
    with pytest.raises(DataError, match="are a folder, not a file"):
        fetch(str(tmp_path))
    with pytest.raises(UsageError, match="cannot be fetched from 'ftp://"):
        fetch("ftp://host/weights.pth")


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x3d_xs@4x160", "slowfast_8x8_r50@32x256"])
def test_a_whole_network_of_pytorchvideo_fits_without_its_classifier(name: str, tmp_path: Path) -> None:
    from pytorchvideo.models.slowfast import create_slowfast
    from pytorchvideo.models.x3d import create_x3d

    whole = create_x3d(input_clip_length=4, input_crop_size=160) if "x3d" in name else create_slowfast()
    check_fits(component(name), {"model_state": whole.state_dict()}, tmp_path)


@pytest.mark.slow
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
