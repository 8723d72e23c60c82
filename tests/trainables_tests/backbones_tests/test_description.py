"""`backbone.json`: what is written is read, what earlier versions wrote too, and the rest refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretovid.trainables.backbones.description import (
    DESCRIPTION_FILE,
    BackboneDescription,
    BackboneOrigin,
)
from paretovid.trainables.errors import DataError, NonFiniteError, VersionError

DESCRIBED = BackboneDescription(
    component="resnet8_w16@64",
    num_outputs=3,
    feature_width=64,
    input={"kind": "frame", "size": 64, "num_frames": 1},
    weights_sha256="ab" * 32,
    origin=BackboneOrigin(
        labels=("a", "b", "background"),
        training={"seed": 0, "video_share": 0.5},
        dataset="some",
        dataset_fingerprint="3a46fd007c08",
    ),
    measured={"steps": 10.0, "loss": 1.5},
    skipped=2,
)


def document(**changed: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(DESCRIBED.to_json()))
    return {**found, **changed}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    DESCRIBED.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [DESCRIPTION_FILE]
    assert BackboneDescription.read(tmp_path) == DESCRIBED == BackboneDescription.find(tmp_path)
    assert DESCRIBED.video_share == 0.5 and not DESCRIBED.is_fine_tuned


def test_what_earlier_versions_wrote_is_read() -> None:
    earlier = document()
    del earlier["version"], earlier["skipped"]
    assert BackboneDescription.from_json(earlier, "here").origin == DESCRIBED.origin
    for name in ("labels", "training", "dataset", "dataset_fingerprint", "measured"):
        del earlier[name]
    bare = BackboneDescription.from_json(earlier, "here")
    assert bare.origin == BackboneOrigin() and bare.video_share == 1.0 and not bare.is_fine_tuned


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_refused_and_not_taken_for_damage(tmp_path: Path, version: int) -> None:
    """Else a backbone that somebody trained for a day would be trained over."""
    (tmp_path / DESCRIPTION_FILE).write_text(json.dumps(document(version=version)))
    for read in (BackboneDescription.read, BackboneDescription.find):
        with pytest.raises(VersionError, match=rf"{DESCRIPTION_FILE} is of version {version}") as refused:
            read(tmp_path)
        assert str(tmp_path) in refused.value.message and refused.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("component"), "has no field 'component'"),
        (lambda d: d["architecture"].update(num_outputs="3"), "num_outputs must be a whole number"),
        (lambda d: d.update(labels="video"), "labels must be a list"),
        (lambda d: d["measured"].update(loss=float("inf")), r"measured\.loss is inf"),
    ],
)
def test_damage_says_what_and_where(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    changed = document()
    change(changed)
    (tmp_path / DESCRIPTION_FILE).write_text(json.dumps(changed))
    with pytest.raises((DataError, NonFiniteError), match=said) as refused:
        BackboneDescription.read(tmp_path)
    assert str(tmp_path) in refused.value.message and refused.value.hint
    assert BackboneDescription.find(tmp_path) is None, "another may be made in its place"


def test_none_is_none(tmp_path: Path) -> None:
    assert BackboneDescription.find(tmp_path) is None
    with pytest.raises(DataError, match="no trained backbone in"):
        BackboneDescription.read(tmp_path)
