"""The suites that every plug-in should pass; and what is special to these ones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest

from paretovid.platform.search.study import ParetoStudy
from paretovid.search_spaces.schema import KnobConfig
from paretovid.trainables.contracts.backbones import FamilyContract
from paretovid.trainables.contracts.methods import MethodContract
from paretovid.trainables.contracts.readers import ReaderContract
from paretovid.trainables.errors import DataError
from paretovid.trainables.plugins.catalog import use_plugins
from paretovid.trainables.testing import synthetic_metrics


class TestFirstSure(MethodContract):
    plugins = ("paretovid_example_plugins.first_sure",)
    name = "first_sure"


class TestExampleTiny(FamilyContract):
    plugins = ("paretovid_example_plugins.tiny_backbones",)
    name = "example_tiny"


class TestFileNames(ReaderContract):
    plugins = ("paretovid_example_plugins.file_names",)
    name = "file_names"
    settings: ClassVar[dict[str, object]] = {"videos": "."}

    def write_example(self, folder: Path) -> None:
        for name in ("run-1.mp4", "run-2.mp4", "jump-1.mp4"):
            (folder / name).write_bytes(b"")


def test_farthest_spreads_and_is_the_same_again(tmp_path: Path) -> None:
    use_plugins(["paretovid_example_plugins.farthest"])
    knobs = {"gamma": KnobConfig(low=0, high=1), "clips": KnobConfig(low=1, high=9, whole=True)}

    def searched(name: str) -> list[dict[str, float | str]]:
        study = ParetoStudy(
            storage=f"journal://{tmp_path}/journal", name=name, knobs=knobs, trials=12, sampler="farthest"
        )
        asked = []
        while (suggestion := study.ask()) is not None:
            study.report(suggestion.trial_id, synthetic_metrics())
            asked.append(suggestion.knobs)
        return asked

    first = searched("first")
    assert searched("again") == first
    gammas = sorted(float(each["gamma"]) for each in first)
    assert max(b - a for a, b in pairwise(gammas)) < 0.4


def test_a_file_without_a_class_is_named(tmp_path: Path) -> None:
    from paretovid_example_plugins.file_names import FileNamesConfig, read_file_names

    (tmp_path / "run.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"run\.mp4 names no class"):
        read_file_names(FileNamesConfig(videos=str(tmp_path)))
