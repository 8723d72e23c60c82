from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from paretovid.search_spaces import schema
from paretovid.trainables.training.config import DEFAULT_POINTS

TREE = Path(schema.__file__).parent
FILES = sorted(TREE.rglob("*.yaml"))


def test_every_setting_has_a_default_or_a_file_that_gives_it() -> None:
    config = OmegaConf.structured(schema.SweepConfig)
    missing = {key for key in ("name", "family") if OmegaConf.is_missing(config.method, key)}
    assert missing == {"name"}
    assert OmegaConf.is_missing(config.backbones, "family")


def test_as_many_points_are_placed_by_default_as_a_trial_places_by_itself() -> None:
    """A trial's digest leaves the default out: were it another one here, trials would be trained again."""
    assert schema.SearchConfig().points == DEFAULT_POINTS


def test_free_sections_are_sections() -> None:
    config = OmegaConf.structured(schema.SweepConfig)
    for section in schema.FREE_SECTIONS:
        assert OmegaConf.is_dict(OmegaConf.select(config, section))


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent != TREE], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_files_keep_to_the_schema(path: Path) -> None:
    """Without Hydra: a file that Hydra would refuse only when somebody chooses it."""
    config = OmegaConf.structured(schema.SweepConfig)
    content = OmegaConf.load(path)
    assert isinstance(content, DictConfig)
    content.pop("defaults", None)  # Hydra's own: the file that this one changes
    OmegaConf.update(config, path.parent.name, content, merge=True)
    assert isinstance(OmegaConf.to_object(_whole(config)), schema.SweepConfig)


def _whole(config: Any) -> Any:
    free = (("method.model", config.method.model), ("data", config.data))
    # What only its user knows.
    asked = [f"{name}.{key}" for name, node in free for key in node if OmegaConf.is_missing(node, key)]
    for dotted in ("method.name", "backbones.family", *asked):
        section, _, key = dotted.rpartition(".")
        if OmegaConf.is_missing(OmegaConf.select(config, section), key):
            OmegaConf.update(config, dotted, "any")
    return config


def test_nothing_is_built_from_a_target() -> None:
    assert FILES
    for path in FILES:
        assert "_target_" not in path.read_text()


def test_settings_have_a_meaning() -> None:
    source = Path(schema.__file__).read_text()
    for cls in (schema.SearchConfig, schema.ClusterConfig):
        for field in dataclasses.fields(cls):
            after = source.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1]
            assert after.lstrip().startswith('"""'), f"{cls.__name__}.{field.name} is not explained"
