"""The guard of the house (`tests/house.py`): it holds for this tree, and fails for a made-up one that breaks a rule."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import house, words
from tests.house import FLOORS, ROOT

LOOSE_MAPPINGS = {
    "infra/nodes.py": 2,
    "platform/cli": 5,
    "platform/config": 6,
    "platform/execution": 7,
    "platform/fronts": 1,
    "platform/preparation": 4,
    "platform/records": 1,
    "platform/registry": 14,
    "platform/search": 8,
    "platform/storage": 2,
    "platform/sweeps": 1,
    "platform/testing": 5,
    "platform/tracking": 5,
    "search_spaces/schema.py": 8,
    "trainables/backbones": 1,
    "trainables/catalog.py": 2,
    "trainables/config.py": 1,
    "trainables/cost.py": 2,
    "trainables/data": 14,
    "trainables/layers": 2,
    "trainables/method.py": 1,
    "trainables/methods": 1,
    "trainables/published": 5,
    "trainables/ranges.py": 2,
    "trainables/recognizer.py": 4,
    "trainables/contracts": 1,
    "trainables/testing.py": 2,
}
"""Room to how often `dict[str, Any]` and `Mapping[str, Any]` may stand in it. Figures may only fall."""

JSON_MAPPINGS = {
    "platform/cli": 8,
    "platform/config": 7,
    "platform/execution": 17,
    "platform/records": 5,
    "platform/registry": 4,
    "platform/search": 7,
    "platform/sweeps": 10,
    "platform/testing": 5,
    "trainables/backbones": 3,
    "trainables/baselines": 6,
    "trainables/catalog.py": 1,
    "trainables/contracts": 1,
    "trainables/data": 1,
    "trainables/documents.py": 6,
    "trainables/evaluation": 1,
    "trainables/features": 3,
    "trainables/layers": 4,
    "trainables/method.py": 6,
    "trainables/methods": 6,
    "trainables/model_description.py": 8,
    "trainables/recognizer.py": 1,
    "trainables/testing.py": 1,
    "trainables/training": 1,
    "trainables/trial.py": 2,
}
"""Room to how often `JsonObject` and mappings of `object` may stand in it. Figures may only fall."""


# This tree


def test_every_room_has_a_floor() -> None:
    assert house.homeless(ROOT, FLOORS) == []


def test_imports_go_down() -> None:
    assert len(list(house.imports(ROOT))) > 1000, "this guard would hold for nothing"
    assert house.upward(ROOT, FLOORS) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert house.cycles(ROOT) == []


def test_only_catalogs_name_modules_by_strings() -> None:
    assert house.named_by_strings(ROOT) == []
    assert all((ROOT / path).is_file() for path in house.CATALOGS)


def test_tests_and_benchmarks_name_modules_that_are_there() -> None:
    wrong = house.unresolved(ROOT, (*house.FOLDERS, "tests", "benchmarks", "examples"))
    made_up = ("tests/test_house.py:", "tests/platform_tests/registry_tests/test_runtime_code.py:")
    assert [each for each in wrong if not each.startswith(made_up)] == []


def test_no_folder_is_crowded_and_platform_holds_packages_only() -> None:
    assert house.crowded(ROOT) == []


def test_files_and_functions_fit_a_reader() -> None:
    assert house.beyond(house.long_files(ROOT), house.LONG_FILES) == []
    assert house.beyond(house.long_functions(ROOT), house.LONG_FUNCTIONS) == []


def test_a_file_of_a_home_is_named_by_its_owner() -> None:
    assert house.spelled_names(ROOT) == []
    assert house.idle_owners(ROOT) == []
    assert house.joined_by_hand(ROOT) == []


def test_loose_mappings_do_not_rise() -> None:
    found = house.loose_mappings(ROOT)
    assert found == LOOSE_MAPPINGS, (
        "give what lies in them a type; a figure that fell is written down, none may rise"
    )


def test_mappings_of_json_do_not_rise() -> None:
    """Another name for a mapping must not be the way around the figures above."""
    assert house.json_mappings(ROOT) == JSON_MAPPINGS, (
        "give what lies in them a type; a figure that fell is written down, none may rise"
    )


@pytest.mark.parametrize(("folder", "most"), [("platform", 5), ("trainables", 3)])
def test_loose_mappings_are_few_for_the_size_of_the_code(folder: str, most: float) -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py"))
    assert (
        1000 * sum(LOOSE_MAPPINGS[each] for each in LOOSE_MAPPINGS if each.startswith(folder)) <= most * lines
    )


def test_private_names_of_libraries_stay_in_their_adapters() -> None:
    assert house.private_names(ROOT) == []


def test_what_private_names_belong_to_has_an_upper_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    asked = [each for extra in project["optional-dependencies"].values() for each in extra]
    for library in house.ADAPTERS:
        (bound,) = {
            match[1]
            for each in asked
            if (match := re.fullmatch(rf"{library}(?:\[.*\])?>=[\d.]+,<([\d.]+)", each))
        }
        assert numbers(pins[library]) < numbers(bound)
        assert not [each for each in asked if re.match(rf"{library}\b(?!-)", each) and "<" not in each]


def test_words_that_have_a_term_of_the_field_do_not_come_back() -> None:
    assert words.former_names(ROOT) == []
    assert words.former_words(ROOT) == []


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_the_picture_shows_the_floors() -> None:
    assert house.shown(ROOT).strip() == house.drawn(ROOT).strip(), "draw it anew: python -m tests.house"


def test_the_list_of_folders_says_the_same() -> None:
    text = (ROOT / house.ARCHITECTURE).read_text()
    listing = text.partition("<!-- end of floors -->")[2].partition("```\n")[2].partition("```")[0]
    listed: dict[str, int] = {}
    folder = ""
    for line in listing.splitlines():
        if top := re.match(r"(\w+)/ ", line):
            folder = top[1]
        elif found := re.match(r"  (\d+) ((?:[\w.]+/?(?:, )?)+)", line):
            listed |= {f"{folder}/{name.strip('/ ')}": int(found[1]) for name in found[2].split(", ")}
    assert listed == FLOORS


# A made-up tree

Tree = Callable[[dict[str, str]], Path]
SMALL = {"platform/cli": 3, "platform/sweeps": 2, "platform/storage": 1, "trainables/trial.py": 2}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def test_an_import_upwards_is_seen_also_inside_a_function(tree: Tree) -> None:
    root = tree(
        {
            "platform/cli/main.py": "import paretovid.platform.sweeps.sweep",
            "platform/sweeps/sweep.py": "from paretovid.platform.storage import home",
            "platform/storage/home.py": "def f():\n    from paretovid.platform.cli.main import x",
        }
    )
    assert house.upward(root, SMALL) == [
        "platform/storage/home.py:2: platform/cli/main.py (floor 1 to floor 3)"
    ]
    tree({"platform/storage/home.py": ""})
    house.parsed.cache_clear()
    assert house.upward(root, SMALL) == []


def test_an_import_on_the_same_floor_is_seen_and_one_in_a_room_may_be(tree: Tree) -> None:
    root = tree(
        {
            "platform/cli/main.py": "from paretovid.platform.cli import words",
            "platform/cli/words.py": "from paretovid.platform.sweeps import sweep",
            "platform/sweeps/sweep.py": "",
        }
    )
    assert house.upward(root, SMALL) == []
    assert len(house.upward(root, {**SMALL, "platform/cli": 2})) == 1


def test_a_circle_is_seen_also_in_one_room_and_by_a_lazy_import(tree: Tree) -> None:
    root = tree(
        {
            "trainables/data/a.py": "from paretovid.trainables.data.b import x",
            "trainables/data/b.py": "from paretovid.trainables.data import c",
            "trainables/data/c.py": "def f():\n    import paretovid.trainables.data.a",
            "trainables/data/d.py": "import paretovid.trainables.data.a",
        }
    )
    assert house.cycles(root) == [[f"trainables/data/{name}.py" for name in "abc"]]


def test_a_seventeenth_module_is_seen_and_a_module_directly_in_platform(tree: Tree) -> None:
    root = tree({f"platform/cli/m{number}.py": "" for number in range(16)} | {"platform/cli/__init__.py": ""})
    assert house.crowded(root) == []
    tree({"platform/cli/m16.py": ""} | {f"trainables/methods/m{number}.py": "" for number in range(20)})
    assert house.crowded(root) == ["platform/cli has 17 modules, of 16 at most"]
    tree({"platform/stray.py": ""})
    assert house.crowded(root)[1:] == ["platform/stray.py lies directly in platform/"]


def test_a_room_without_a_floor_is_seen_and_a_floor_without_a_room(tree: Tree) -> None:
    root = tree({"platform/attic/a.py": "", "platform/cli/a.py": "", "trainables/trial.py": ""})
    assert house.homeless(root, SMALL) == ["platform/attic", "platform/storage", "platform/sweeps"]


def test_a_module_named_by_a_string_is_seen_but_in_a_catalog(tree: Tree) -> None:
    text = 'NAME = "paretovid.trainables.trial:run"\nTAG = "paretovid.trial.number"'
    root = tree({"trainables/trial.py": "", "trainables/catalog.py": text, "platform/cli/main.py": text})
    assert house.named_by_strings(root) == ["platform/cli/main.py:1: paretovid.trainables.trial:run"]


def test_a_module_that_is_not_there_is_seen_also_in_a_script(tree: Tree) -> None:
    script = "import os\\nfrom paretovid.trainables import gone\\nos.getpid()\\n\\n"
    root = tree(
        {
            "trainables/trial.py": "",
            "tests/test_a.py": f'from paretovid.trainables.lost import x\nSCRIPT = "{script}"',
            "tests/test_b.py": "from paretovid.trainables.trial import x\nfrom paretovid.trainables import trial",
        }
    )
    assert house.unresolved(root, ("tests",)) == [
        "tests/test_a.py:1: paretovid.trainables.lost",
        "tests/test_a.py:2: paretovid.trainables.gone",
    ]


def test_what_is_too_long_is_seen_and_an_exception_may_only_shrink(tree: Tree) -> None:
    body = "    pass\n" * 59
    root = tree(
        {"infra/a.py": f"def fits():\n{body}", "infra/b.py": f"@property\ndef f():\n{body}" + "\n" * 440}
    )
    assert house.long_functions(root) == {"infra/b.py:f": 61}
    assert house.long_files(root) == {"infra/b.py": 501}
    assert house.beyond({"a": 61}, {}) == ["a has 61 lines"] == house.beyond({"a": 61}, {"a": 60})
    assert house.beyond({"a": 61}, {"a": 61}) == []
    assert house.beyond({}, {"a": 61}) == ["a is no exception any more: leave it out"]


def test_a_file_name_is_seen_but_at_its_owner_and_in_a_docstring(tree: Tree) -> None:
    spelled = 'def f(x):\n    """result.json"""\n    return x.glob("*/result.json"), "no result.json"'
    owner = house.FILE_NAMES["result.json"][0]
    root = tree({owner: spelled, "platform/records/trial.py": spelled, "platform/cli/main.py": spelled})
    assert house.spelled_names(root) == ["platform/cli/main.py:3: '*/result.json'"]


def test_a_file_name_that_is_not_listed_is_seen_but_where_files_of_others_are_read(tree: Tree) -> None:
    new = 'NAMES = "x/new.json", "of a.json", ".json"'
    root = tree({"trainables/data/set.py": new, "trainables/data/readers/theirs.py": new})
    assert house.spelled_names(root) == ["trainables/data/set.py:1: 'x/new.json'"]


def test_a_folder_of_a_home_that_is_joined_by_hand_is_seen(tree: Tree) -> None:
    text = 'def f(home):\n    return home.root / "features", home.root / "other"'
    root = tree({"platform/cli/main.py": text, "platform/storage/home.py": text})
    assert house.joined_by_hand(root) == ["platform/cli/main.py:2: home.root / 'features'"]


def test_loose_mappings_are_counted(tree: Tree) -> None:
    text = "def f(x: dict[str, Any], y: Mapping[str, Any]) -> dict[str, int]: ..."
    root = tree({"platform/cli/main.py": text, "trainables/trial.py": "x = 1"})
    assert house.loose_mappings(root) == {"platform/cli": 2}


def test_mappings_of_json_are_counted_but_not_their_imports(tree: Tree) -> None:
    text = "from paretovid.trainables.documents import JsonObject\n"
    text += "def f(x: JsonObject, y: Mapping[str, object] | None) -> list[dict[str, object]]: ..."
    root = tree({"platform/cli/main.py": text, "trainables/trial.py": "x: dict[str, int]"})
    assert house.json_mappings(root) == {"platform/cli": 3}


@pytest.mark.parametrize(
    "text",
    [
        "from optuna.storages.journal._file import lock",
        "def f():\n    import ray._private.state",
        "import optuna\ndef f(study):\n    return study._storage",
        "def f(study):\n    return study._storage",
        "import mlflow\ndef f(run):\n    return getattr(run, '_client')",
        "from torch.nn.modules.batchnorm import _BatchNorm",
    ],
)
def test_a_private_name_is_seen_but_in_its_adapter(tree: Tree, text: str) -> None:
    harmless = "import optuna\nclass A:\n    def f(self, x):\n        return self._x, x.__name__"
    harmless += "\nfrom sqlalchemy import __version__"
    adapter = house.ADAPTERS["optuna"][0]
    root = tree({"platform/sweeps/sweep.py": text, "platform/cli/main.py": harmless})
    assert len(house.private_names(root)) == 1
    if "optuna" in text:
        tree({"platform/sweeps/sweep.py": "", adapter: text})
        house.parsed.cache_clear()
        assert house.private_names(root) == []


def test_the_picture_leaves_out_what_follows() -> None:
    pairs = {("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")}
    assert house.needed_arrows(pairs) == {("a", "b"), ("b", "c"), ("a", "d")}


def test_a_former_word_is_seen_in_names_keys_and_sentences_but_not_in_what_a_library_calls_so(
    tree: Tree,
) -> None:
    code = """class SourceFacts:
    def tell(self, is_natural, ground_truth):
        \'\'\'The dearest of all.\'\'\'
        self.study.tell(1)  # a sign
        # of life
        told = truth = "natural setting"
"""
    root = tree(
        {
            "platform/a.py": code,
            "search_spaces/search/b.yaml": "tell_swept: false\n",
            "docs/c.md": "put\naway",
            "benchmarks/d.md": "mended",
        }
    )
    assert words.former_names(root) == [
        "platform/a.py:1: SourceFacts: info",
        "platform/a.py:2: tell: report, notify or send",
        "platform/a.py:2: is_natural: default",
        "platform/a.py:6: told: reported, notified or sent",
        "platform/a.py:6: truth: ground truth",
        "search_spaces/search/b.yaml:1: tell_swept: report, notify or send",
    ]
    assert words.former_words(root) == [
        "platform/a.py: natural setting: default setting",
        "platform/a.py: dearest: (most) expensive",
        "platform/a.py: sign of life: heartbeat",
        "search_spaces/search/b.yaml: tell_swept: report_all_points",
        "docs/c.md: put away: discarded",
        "benchmarks/d.md: mended: repaired, repairs",
    ]
