"""Weights that others have trained: fetched, checked, and put into a backbone.

The user names a file or a URL for each source; nothing is downloaded that was not named. A file is safetensors, or
what `torch.save` writes, which is read with `weights_only=True` so that it cannot run code. It must fit the
network name by name and shape by shape; only the classifier's tensors are left out, because a data set has its
own. Of a component that classifies (a member of a pool to select from) the classifier's last layer is kept as well,
and must have as many outputs as the data set has classes.

`random` in place of a file builds the network with fresh weights: its cost and its way through the platform are
the real ones, its features say nothing.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from paretovid.trainables.backbones.spec import Backbone, ComponentSpec
from paretovid.trainables.data.regular_files import what_else
from paretovid.trainables.data.s3 import ObjectStoreError, read_object, status
from paretovid.trainables.data.signed_urls import VARIABLE, with_signature
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.redaction.urls import recorded_url, without_secrets_of

RANDOM = "random"
MAX_GIGABYTES = 4.0
"""The size of a file of weights above which it is not read, unless a caller says otherwise."""
# Times the size of the archive. `torch.save` packs nothing, and what deflate can do ends at about a thousand.
_MAX_UNPACKED = 100
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 2**22
_SHOWN = 4  # names that an error lists
# What a training script saves beside the weights it saves them with.
_WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model")


def build_with_weights(
    spec: ComponentSpec,
    location: str | None,
    *,
    sha256: str | None = None,
    num_classes: int = 1,
    with_classifier: bool = True,
    max_gigabytes: float = MAX_GIGABYTES,
) -> tuple[Backbone, dict[str, Any]]:
    """A backbone with the weights at `location`, in eval mode, and where they came from as plain data, without the
    query of a URL.

    Arguments:
        location: a path, `http(s)://`, `s3://`, or `random`. None: an error that says what to get.
        sha256: of the file, in hex; checked if given.
        num_classes: outputs of the classifier, whose weights are fresh unless the component classifies.
        with_classifier: of a component that classifies, take the last layer from the file as well; else it is fresh,
            to be fine-tuned on other classes.
        max_gigabytes: a larger file is refused before it is read.

    Raises `UsageError` if there is no location or it cannot be one, `DataError` for a file that cannot be had,
    has another digest, is no plain set of tensors or does not fit the network.
    """
    if not location:
        raise missing_weights(spec)
    # Fresh weights are the same in every process; a seed of the caller's is not moved.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(spec.name.encode()))
        backbone = spec.build(num_classes)
        if location == RANDOM:
            _settle(backbone, spec)
            return backbone.eval(), {"weights": RANDOM}
    content = fetch(location, int(max_gigabytes * 1e9))
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and sha256.lower() != digest:
        raise DataError(
            f"{location} has the SHA-256 {digest}, not {sha256.lower()}",
            "It is another file, or it was cut short: fetch it again, or correct the digest.",
        )
    load_trunk(backbone, spec, read_tensors(content, location), location, with_classifier=with_classifier)
    return backbone.eval(), {"weights": recorded_url(location), "file_sha256": digest}


def _settle(backbone: Backbone, spec: ComponentSpec) -> None:
    """Sets the statistics of all batch norms from inputs of noise.

    Without them the signal of a deep untrained network fades to nothing, or grows beyond half precision.
    """
    norms = [module for module in backbone.trunk.modules() if isinstance(module, _BATCH_NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    shape = spec.input.shape
    noise = torch.randn(1, *shape)
    if spec.input.kind == "logmel":
        inputs = 3 * noise - 2
    else:
        # Pictures are smooth; on noise alone their large areas would come out a thousand times too strong.
        coarse = torch.randn(1, shape[-1], 7, 7)
        smooth = functional.interpolate(coarse, size=shape[-3:-1], mode="bilinear").movedim(1, -1)
        if len(shape) == 4:
            smooth = smooth[:, None].expand(1, *shape)
        inputs = 127.5 + 50 * torch.cat([noise, smooth])
    with torch.no_grad():
        backbone.train()(inputs.clamp(min=0) if spec.input.kind != "logmel" else inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def missing_weights(spec: ComponentSpec, source: str | None = None) -> UsageError:
    """The error for a component whose weights nobody named. `source`: what it is there for, if known."""
    assert spec.weights is not None, "the platform trains this component by itself"
    return UsageError(
        f"{spec.name} needs weights, and none are given",
        f"Get {spec.weights.file} from {spec.weights.origin} and name the file or its URL: "
        f"backbones.weights.{source or spec.source}=PATH (docs/backbones.md); backbones.weights=random tries things "
        "out.",
    )


def fetch(location: str, max_bytes: int = int(MAX_GIGABYTES * 1e9)) -> bytes:
    """The bytes at a path, `http(s)://` or `s3://`, by the signature of `signed_urls.py` where a URL has none.

    Raises `DataError`, also for more than `max_bytes`, and `UsageError` for another scheme; neither shows a signature.
    """
    scheme = urllib.parse.urlsplit(location).scheme
    shown = recorded_url(location)
    signed = with_signature(location)
    try:
        if scheme in ("http", "https"):
            with urllib.request.urlopen(signed, timeout=_TIMEOUT_SECONDS) as answer:
                return _read_answer(answer, location, max_bytes)
        if scheme == "s3":
            return _read_object(location, max_bytes)
        if "://" in location:
            raise UsageError(
                f"weights cannot be fetched from {location!r}", "Allowed: a path, http://, https://, s3://."
            )
        return _read_file(Path(location).expanduser(), location, max_bytes)
    except urllib.error.HTTPError as error:
        hint = "Check the URL."
        if error.code in (400, 401, 403):
            hint += f" If it wants a signature, or has an old one: name a file of signed URLs in {VARIABLE}."
        raise DataError(f"{shown} answers {error.code} ({error.reason})", hint) from error
    except ObjectStoreError as error:
        raise DataError(f"weights cannot be read: {error.message}", error.hint) from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # HTTPException: cut short, or no URL
        if isinstance(error, UsageError):
            raise
        reason = without_secrets_of(getattr(error, "strerror", None) or str(error), signed)
        raise DataError(f"weights cannot be read from {shown}: {reason}", "Check the path or URL.") from error


def _too_large(location: str, size: int | None, max_bytes: int) -> DataError:
    has = f"more than {max_bytes / 1e9:.3g} GB" if size is None else f"{size / 1e9:.3g} GB"
    return DataError(
        f"the weights at {location} have {has}, allowed are {max_bytes / 1e9:.3g}",
        "If they are the right ones: backbones.max_weights_gigabytes=SIZE.",
    )


def _read_answer(answer: http.client.HTTPResponse, location: str, max_bytes: int) -> bytes:
    """All of a server's answer. It may state no size, or a wrong one."""
    expected = answer.length
    if expected is not None and expected > max_bytes:
        raise _too_large(location, expected, max_bytes)
    chunks, size = [], 0
    while chunk := answer.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(location, None, max_bytes)
        chunks.append(chunk)
    content = b"".join(chunks)
    if expected is not None and size < expected:
        raise http.client.IncompleteRead(content, expected - size)
    return content


def _read_file(path: Path, location: str, max_bytes: int) -> bytes:
    if other := what_else(path):
        raise DataError(f"the weights at {location} are {other}, not a file", "Check the path.")
    size = path.stat().st_size
    if size > max_bytes:
        raise _too_large(location, size, max_bytes)
    return path.read_bytes()


def _read_object(location: str, max_bytes: int) -> bytes:
    try:
        size = status(location).bytes
        if size > max_bytes:
            raise _too_large(location, size, max_bytes)
        return read_object(location, max_bytes)
    except FileNotFoundError as error:
        raise DataError(f"there is no object {location}", "Check the URL.") from error


def read_tensors(content: bytes, location: str) -> dict[str, Tensor]:
    """Names to tensors `[...]`, each of the shape that it was saved in, of a safetensors file or a saved state dict.

    A dictionary around it (`state_dict`, `model_state`, ...) and the `module.` of parallel training are taken off.
    Raises `DataError` for anything else; nothing in the file is run.
    """
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError:
        pass
    _check_unpacked(content, location)
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler's own types, and whatever it stumbles over in a damaged file
        raise DataError(
            f"{location} is neither safetensors nor a plain state dict",
            "Objects other than tensors are not read, because reading them can run code. Where you trust the file, "
            "save its state_dict alone: safetensors.torch.save_file(state_dict, 'weights.safetensors').",
        ) from error
    for name in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise DataError(
            f"{location} holds no state dict", "Expected names and tensors, as model.state_dict() gives."
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def _check_unpacked(content: bytes, location: str) -> None:
    """Raises `DataError` for an archive, as `torch.save` writes, whose parts are far larger than it is."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # of another kind, which is not packed, or damaged: whoever reads it says so
    if unpacked > _MAX_UNPACKED * len(content):
        raise DataError(
            f"{location} has {len(content)} bytes and unpacks to {unpacked}",
            f"More than {_MAX_UNPACKED} times the size is no file of weights. Get it again from its origin.",
        )


def load_trunk(
    backbone: Backbone,
    spec: ComponentSpec,
    tensors: Mapping[str, Tensor],
    location: str,
    *,
    with_classifier: bool = True,
) -> None:
    """Puts the tensors, `[...]` as in the trunk's state, into the trunk, and into what classifies behind it.

    Raises `DataError` that lists what is missing, unexpected or misshapen.
    """
    heads = spec.weights.head if spec.weights is not None else ()
    wanted = backbone.trunk.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(heads or ("\0",))}
    # Counted since PyTorch 0.4.1 and used by no network here.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    problems = {
        "missing": sorted(wanted.keys() - given.keys() - counters),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {list(given[name].shape)} instead of {list(wanted[name].shape)}"
            for name in sorted(given.keys() & wanted.keys())
            if given[name].shape != wanted[name].shape
        ],
    }
    if any(problems.values()):
        differences = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        expected = f" It is made for {spec.weights.file} from {spec.weights.origin}." if spec.weights else ""
        raise DataError(
            f"the weights in {location} do not fit {spec.name}: {differences}", f"Check the file.{expected}"
        )
    backbone.trunk.load_state_dict({**{name: wanted[name] for name in counters}, **given})
    if with_classifier and spec.classifies and spec.weights is not None:
        _load_classifier(backbone, spec.weights.head_layer, tensors, location)


def _load_classifier(backbone: Backbone, layer: str, tensors: Mapping[str, Tensor], location: str) -> None:
    """Puts the last layer of the weights' classifier into the backbone's."""
    last = backbone.head[-1]
    given = {name: tensors.get(f"{layer}{name}") for name in ("weight", "bias")}
    shapes = {name: None if tensor is None else tuple(tensor.shape) for name, tensor in given.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in last.state_dict().items()}:
        found = shapes["weight"][0] if shapes["weight"] else "no"
        raise DataError(
            f"the classifier in {location} tells {found} classes apart, the data set has {last.out_features}",
            f"A model of a pool is read through its classifier ({layer}weight, {layer}bias): give weights that were "
            "trained on these classes, in this order, or train them on: backbones.fine_tune=true.",
        )
    last.load_state_dict(given)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
