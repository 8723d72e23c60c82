"""Catalogs: where entries come from, when they are imported, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from paretovid.trainables.backbones import catalog as backbones
from paretovid.trainables.catalog import method_class, method_names
from paretovid.trainables.data.readers import catalog as readers
from paretovid.trainables.errors import UnknownNameError, UsageError
from paretovid.trainables.method import METHODS, Method
from paretovid.trainables.plugins import catalog as plugins
from paretovid.trainables.plugins.catalog import Catalog, Entry, own_modules, use_plugins
from paretovid.trainables.provenance import code_version

pytestmark = pytest.mark.usefixtures("no_plugins")


def numbers() -> Catalog[int]:
    def check(name: str, found: object, where: str) -> int:
        if not isinstance(found, int):
            raise UsageError(f"{where} is no number")
        return found

    return Catalog("number", "paretovid.numbers", check)


def installed(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Entry points of one distribution, `name=group/module:attribute`."""

    class Distribution:
        name: ClassVar[str] = "some-plugins"
        version: ClassVar[str] = "1.2"

    def entry_points(group: str) -> list[Any]:
        made = []
        for name, value in points.items():
            of, _, where = value.rpartition("/")
            if of == group:
                point = importlib.metadata.EntryPoint(name, where, group)
                vars(point)["dist"] = Distribution
                made.append(point)
        return made

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    plugins.installed_entries.cache_clear()


METHOD = """
from paretovid.trainables.baselines.uniform import Uniform
from paretovid.trainables.method import register

@register
class Mine(Uniform):
    name = "mine"
"""
"""`Uniform` is final to type checkers only; a subclass is the shortest method there is."""


def test_an_entry_is_imported_when_it_is_first_asked_for(tmp_path: Path) -> None:
    (tmp_path / "lazy.py").write_text("SEVEN = 7\n")
    sys.path.append(str(tmp_path))
    catalog = numbers()
    catalog.own({"seven": "lazy:SEVEN"})
    assert catalog.names() == ("seven",) and "lazy" not in sys.modules
    assert catalog.get("seven") == 7 and "lazy" in sys.modules


def test_an_unknown_name_lists_what_there_is_and_the_closest_first() -> None:
    catalog = numbers()
    catalog.own({"seven": "m:SEVEN", "eleven": "m:ELEVEN"})
    with pytest.raises(UnknownNameError, match="unknown number: 'sevn'") as raised:
        catalog.get("sevn")
    assert raised.value.hint == "Did you mean 'seven'? Known: eleven, seven."


def test_a_name_that_is_there_twice_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, seven="paretovid.numbers/theirs:SEVEN")
    catalog = numbers()
    catalog.own({"seven": "ours:SEVEN"})
    with pytest.raises(
        UsageError, match=r"'seven' is there twice: ours:SEVEN, and theirs:SEVEN \(of some-plugins 1\.2\)"
    ):
        catalog.names()
    with pytest.raises(UsageError, match="twice"):  # not only the first time
        catalog.get("seven")


def test_one_thing_found_on_two_ways_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, seven="paretovid.numbers/theirs:SEVEN")
    catalog = numbers()
    catalog.register("seven", 7, "theirs:SEVEN")
    catalog.register("eight", 8, "theirs")
    assert catalog.names() == ("eight", "seven")
    with pytest.raises(UsageError, match="twice"):
        catalog.register("seven", 77, "theirs:OTHER")


def test_an_installed_method_is_in_the_catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(METHOD)
    sys.path.append(str(tmp_path))
    installed(monkeypatch, mine="paretovid.methods/theirs:Mine", lost="paretovid.methods/theirs:Lost")
    assert "mine" in method_names() and "theirs" not in sys.modules
    assert issubclass(method_class("mine"), Method)
    with pytest.raises(
        UsageError, match=r"theirs:Lost \(of some-plugins 1\.2\): module 'theirs' has no attribute"
    ):
        method_class("lost")


def test_a_module_of_the_current_folder_registers_what_it_adds(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    use_plugins(["mine"])
    assert method_class("mine").name == "mine"
    assert METHODS.entry("mine") == Entry(where="mine:Mine", plugin="plugins=[mine]")
    assert os.environ[plugins.VARIABLE] == "mine", "a process that is started from here must know"


def test_a_process_that_was_started_knows_the_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    monkeypatch.setenv(plugins.VARIABLE, "mine")
    assert "mine" in method_names()
    assert plugins.used_plugins() == ("mine",)


def test_a_module_that_is_not_there_says_what_was_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/some/folder")
    for name in ("nowhere", "nowhere.at_all"):
        with pytest.raises(UsageError, match=rf"plugins=\[{name}\]: there is no module {name}") as raised:
            use_plugins([name])
        assert all(part in raised.value.hint for part in (str(tmp_path), "/some/folder", sys.prefix))
    with pytest.raises(UsageError, match=r"'mine\.py/x' is no name of a module"):
        use_plugins(["mine.py/x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import nothing_of_this_name\n",
            r"does not import: ModuleNotFoundError: .*nothing_of_this_name.*bad\.py:1\)",
        ),
        (
            "\n\n1 / 0\n",
            r"plugins=\[bad\] does not import: ZeroDivisionError: division by zero \(.*bad\.py:3\)",
        ),
        ("def f(:\n", r"does not import: SyntaxError: .*bad\.py, line 1"),
        ("X = 1\n", r"plugins=\[bad\] registers nothing: .*bad\.py"),
        (
            METHOD.replace('"mine"', '"lite_eval"'),
            r"'lite_eval' is there twice: .*lite_eval:LiteEval, and bad:Mine",
        ),
    ],
)
def test_a_module_that_cannot_be_used_says_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        use_plugins(["bad"])


@dataclass(frozen=True)
class _Whole:
    steps: int = 1


@dataclass
class _NotFrozen:
    steps: int = 1


@dataclass(frozen=True)
class _Open:
    steps: int


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"name": "other"}, r"its `name` is 'other', and must be 'mine'"),
        ({"loss": None, "run": None}, r"it does not define run"),
        ({"looks": lambda self: ("none", "fine")}, r"its `looks\(\)` is called `reads\(\)` now"),
        ({"task": "guessing"}, r"its `task` is 'guessing', and must be one of classification, localization"),
        ({"Config": dict}, r"its `Config` must be a dataclass"),
        ({"Config": _NotFrozen}, r"its `Config` must be frozen"),
        ({"Config": _Open}, r"every field of its `Config` must have a default, and steps has none"),
        ({"inference_knobs": ("k",)}, r"its `inference_knobs` must be InferenceKnob"),
    ],
)
def test_a_method_that_breaks_the_contract_says_which_rule(fields: dict[str, Any], rule: str) -> None:
    base = method_class("uniform")
    members = {"name": "mine", "Config": _Whole, **fields}
    if members.get("run", 0) is None:
        members = {"name": "mine", "Config": _Whole}
        made = type("Mine", (base,), members)
        made.__abstractmethods__ = frozenset({"run"})  # type: ignore[attr-defined]
    else:
        made = type("Mine", (base,), members)
    with pytest.raises(UsageError, match=rf"here:Mine breaks the contract of a method: {rule}"):
        METHODS.register("mine", made, "here:Mine")
    assert "mine" not in method_names()


def test_a_module_that_is_imported_already_must_have_registered_something_too(tmp_path: Path) -> None:
    for name, text in (("idle", "X = 1\n"), ("busy", METHOD)):
        (tmp_path / f"{name}.py").write_text(text)
    sys.path.append(str(tmp_path))
    importlib.import_module("idle")
    importlib.import_module("busy")
    use_plugins(["busy"])
    with pytest.raises(UsageError, match=r"plugins=\[idle\] registers nothing: .*idle\.py"):
        use_plugins(["idle"])
    with pytest.raises(UsageError, match=r"plugins=\[json\] registers nothing"):
        use_plugins(["json"])


def test_a_family_and_its_components_are_known_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from paretovid.trainables.backbones.catalog import component, register_family\n"
        "SPEC = dataclasses.replace(component('resnet8_w16@64'), name='mine@64')\n"
        "register_family('mine', {'coarse': 'mobilenet_v2_w025@16', 'fine': SPEC})\n"
    )
    use_plugins(["mine"])
    assert backbones.family("mine") == {"coarse": "mobilenet_v2_w025@16", "fine": "mine@64"}
    assert backbones.component("mine@64").feature_width == 64
    assert backbones.component_family("mine@64") == "mine"
    assert backbones.component_family("mobilenet_v2_w025@16") is None


def test_an_installed_family_is_found_by_its_component(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "theirs.py").write_text(
        "import dataclasses\n"
        "from paretovid.trainables.backbones.catalog import component, register_family\n"
        "FAMILY = {'fine': dataclasses.replace(component('resnet8_w16@64'), name='theirs@64')}\n"
        "register_family('theirs', FAMILY)\n"
    )
    sys.path.append(str(tmp_path))
    installed(monkeypatch, theirs="paretovid.backbones/theirs:FAMILY")
    assert backbones.component_family("theirs@64") == "theirs"
    assert backbones.BACKBONES.entry("theirs").where == "theirs:FAMILY"


def test_families_and_readers_that_break_the_contract_say_which_rule() -> None:
    with pytest.raises(
        UsageError, match="contract of a family of backbones: it is 3, and must map each source"
    ):
        backbones.register_family("mine", 3)  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match="'fine' must name a ComponentSpec or a known component, not 'nothing@1'"
    ):
        backbones.register_family("mine", {"fine": "nothing@1"})
    taken = backbones.component("resnet50@224")
    with pytest.raises(
        UsageError, match=r"component 'resnet8_w16@64' is there twice: of .*catalog, and of .*plugins_tests"
    ):
        backbones.register_family("mine", {"fine": dataclasses.replace(taken, name="resnet8_w16@64")})
    with pytest.raises(UsageError, match="contract of a reader: it is 3, and must be a Reader"):
        readers.READERS.register("mine", 3, "here")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="reader: its `name` is 'table', and must be 'mine'"):
        readers.READERS.register("mine", readers.reader("table"), "here")


def test_own_entries_are_where_the_catalogs_say() -> None:
    for name in method_names():
        found = method_class(name)
        assert METHODS.entry(name).where == f"{found.__module__}:{found.__qualname__}"
    for name in readers.reader_names():
        assert readers.reader(name).name == name
    assert set(backbones.family("paper")) == {"coarse", "fine"}


def test_a_plugins_files_are_its_modules_and_what_they_import_of_its_own(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "unused.py").write_text("")
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "method.py").write_text("from ..layers import f\nimport numpy\nimport beside\n")
    (package / "layers.py").write_text("import json\nf = 1\n")
    (tmp_path / "beside.py").write_text("from paretovid.trainables.errors import UsageError\n")
    sys.path.append(str(tmp_path))
    assert list(own_modules(["mine.deep.method"])) == [
        "beside",
        "mine",
        "mine.deep",
        "mine.deep.method",
        "mine.layers",
    ]


def test_the_code_version_covers_the_files_of_the_plugins_that_are_named(tmp_path: Path) -> None:
    without = code_version()
    (tmp_path / "mine.py").write_text(METHOD)
    (tmp_path / "other.py").write_text(METHOD.replace('"mine"', '"other"'))
    use_plugins(["mine", "other"])
    assert code_version() == without, "one that has no part in a result counts for nothing"
    mine, both = code_version(["mine"]), code_version(["other", "mine"])
    assert len({without, mine, both}) == 3 and code_version(("mine", "other", "mine")) == both
    (tmp_path / "other.py").write_text(METHOD.replace('"mine"', '"other"') + "# another edition\n")
    plugins.plugin_digest.cache_clear()
    assert code_version(["mine"]) == mine and code_version(["mine", "other"]) not in (without, mine, both)


def test_the_version_of_a_plugin_has_its_distribution_and_its_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "theirs.py").write_text(METHOD)
    (tmp_path / "loose.py").write_text(METHOD.replace('"mine"', '"loose"'))
    (tmp_path / "broken.py").write_text("1 / 0\n")
    sys.path.append(str(tmp_path))
    installed(monkeypatch, mine="paretovid.methods/theirs:Mine", broken="paretovid.methods/broken:X")
    code = plugins.plugin_digest(("theirs",)).hex()[:12]
    assert plugins.plugin_version("theirs") == f"some-plugins 1.2, code {code}"
    assert plugins.plugin_version("loose") == f"code {plugins.plugin_digest(('loose',)).hex()[:12]}"
    assert plugins.plugin_version("nowhere") is None
    with pytest.raises(
        UsageError, match=r"some-plugins 1\.2 does not import: ZeroDivisionError.*broken\.py:1"
    ):
        plugins.plugin_version("broken")
