"""The rules of the house: which package may import which, and how large things may grow.

`python -m tests.house` draws the floors into `docs/architecture.md`. Every function takes the root of a tree, so that
tests can show it a made-up one.
"""

from __future__ import annotations

import ast
import contextlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("platform", "trainables", "search_spaces", "infra")

FLOORS: Mapping[str, int] = {
    "platform/cli": 6,
    "platform/testing": 6,
    "platform/sweeps": 5,
    "platform/registry": 5,
    "platform/preparation": 4,
    "platform/tracking": 4,
    "platform/execution": 3,
    "platform/fronts": 3,
    "platform/search": 2,
    "platform/records": 2,
    "platform/config": 2,
    "platform/storage": 1,
    "platform/console": 1,
    "trainables/trial.py": 10,
    "trainables/recognizer.py": 10,
    "trainables/contracts": 11,
    "trainables/testing.py": 10,
    "trainables/published": 10,
    "trainables/training": 9,
    "trainables/evaluation": 9,
    "trainables/baselines": 8,
    "trainables/features": 8,
    "trainables/methods": 7,
    "trainables/backbones": 7,
    "trainables/catalog.py": 6,
    "trainables/layers": 6,
    "trainables/recurrence": 5,
    "trainables/method.py": 5,
    "trainables/data": 5,
    "trainables/provider.py": 4,
    "trainables/model_description.py": 4,
    "trainables/outcome.py": 4,
    "trainables/config.py": 4,
    "trainables/cost.py": 3,
    "trainables/measurement.py": 3,
    "trainables/provenance.py": 3,
    "trainables/ranges.py": 3,
    "trainables/documents.py": 2,
    "trainables/plugins": 2,
    "trainables/errors.py": 1,
    "trainables/context.py": 1,
    "trainables/redaction": 0,
}
"""Room to its floor. A room is a package, or a module of the core of `trainables`. Imports go to a lower floor."""
CATALOGS = (
    "search_spaces/samplers.py",
    "trainables/catalog.py",
    "trainables/backbones/catalog.py",
    "trainables/data/readers/catalog.py",
)
"""They name their entries by import strings, which is the one way upwards."""

MODULES, LINES, FUNCTION_LINES = 16, 500, 60
ONE_KIND_ONE_FILE = ("trainables/methods", "trainables/baselines", "trainables/data/readers")
"""Folders in which each file is one thing of a kind; they may grow."""
LONG_FILES: Mapping[str, int] = {}
"""Files above `LINES`, and how long they are. May only shrink."""
LONG_FUNCTIONS: Mapping[str, int] = {}
"""Functions above `FUNCTION_LINES`, and how long they are. May only shrink."""

FILE_NAMES: Mapping[str, tuple[str, ...]] = {
    "sweep.json": (),
    "journal.jsonl": (),
    "failure.json": (),
    "front.png": (),
    "front.html": (),
    "front.txt": (),
    "front.json": (),
    "mlflow.db": (),
    "optuna.journal": (),
    "driver.json": (),
    "take-over.json": (),
    "tracked.json": (),
    "mlflow.lock": (),
    "outcome.json": (),
    "stop.json": (),
    "alive.json": (),
    "learning.json": (),
    "judgement.json": (),
    "result.json": ("trainables/evaluation/results.py",),
    "scores.safetensors": ("trainables/evaluation/results.py",),
    "model.safetensors": ("trainables/evaluation/results.py",),
    "model.json": ("trainables/model_description.py",),
    "method.safetensors": ("trainables/recognizer.py",),
    "manifest.json": ("trainables/data/dataset.py",),
    "left_out.json": ("trainables/data/readers/assemble.py",),
    "probed.jsonl": ("trainables/data/readers/probing.py",),
    "index.json": ("trainables/features/index.py",),
    "backbone.json": ("trainables/backbones/description.py",),
    "backbone.safetensors": ("trainables/backbones/catalog.py",),
    "selector.json": ("trainables/layers/timestep_selector.py",),
    "selector.safetensors": ("trainables/layers/timestep_selector.py",),
    "whole.json": ("infra/object_store.py",),
    ".parts.json": ("infra/local_copy.py",),
    "error.txt": (),
    "verified.json": ("trainables/features/checked.py",),
    "moving_digits.json": ("trainables/data/moving_digits/generate.py",),
    "checkpoint.safetensors": ("trainables/training/checkpoint.py",),
    "history.json": ("trainables/training/checkpoint.py",),
    "state.safetensors": ("trainables/backbones/fine_tuning.py",),
    "about.json": ("trainables/backbones/fine_tuning.py",),
    "environment.json": ("platform/tracking/tracker.py",),
    "failed-trials.json": ("platform/tracking/tracker.py",),
}
"""Files that are written, of a home, a checkpoint, a run; and the modules besides `FILE_NAME_PACKAGES` that may spell
their names."""
FILE_NAME = re.compile(r"[\w.-]+\.(?:json|jsonl|safetensors|txt|db)")
"""What else looks like a name of a file has to be in `FILE_NAMES`, but where readers name files of others."""
FILES_OF_OTHERS = "trainables/data/readers/"
FILE_NAME_PACKAGES = ("platform/storage", "platform/records")

ADAPTERS: Mapping[str, tuple[str, ...]] = {
    "optuna": (
        "platform/search/retrying_storage.py",
        "platform/search/storage.py",
        "platform/search/study.py",
    ),
    "ray": ("platform/preparation/interruptible_trainer.py",),
    "mlflow": (),
}
"""Library to the modules that may use its private names."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import anywhere in a module, inside functions too."""

    source: str
    """The module's file, relative to the root."""
    target: str
    """The file that is imported."""
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.target}"


def sources(root: Path) -> list[Path]:
    """Every Python file of the folders, relative to the root."""
    return sorted(path.relative_to(root) for folder in FOLDERS for path in (root / folder).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_file(root: Path, dotted: str) -> str | None:
    """The file of `paretovid.a.b`, or of the module that defines `b`; None if it is none of ours."""
    first, *parts = dotted.split(".")
    if first != "paretovid" or not parts or parts[0] not in FOLDERS:
        return None
    for count in range(len(parts), 0, -1):
        base = Path(*parts[:count])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if (root / path).is_file():
                return path.as_posix()
    return None


def imports(root: Path) -> Iterator[Import]:
    """Every import of one of our modules by another."""
    for path in sources(root):
        for node in ast.walk(parsed(root / path)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in sorted({module_file(root, name) or "" for name in names} - {"", path.as_posix()}):
                yield Import(path.as_posix(), target, node.lineno)


def room(path: str) -> str:
    """The room of a file: its package, or the file itself where it lies directly in a top folder."""
    parts = path.split("/")
    return path if len(parts) == 2 else "/".join(parts[:2])


def homeless(root: Path, floors: Mapping[str, int]) -> list[str]:
    """Rooms without a floor, and floors without a room."""
    rooms = {room(path.as_posix()) for path in sources(root)}
    rooms = {each for each in rooms if each.split("/")[0] in ("platform", "trainables")}
    rooms = {each for each in rooms if not each.endswith("/__init__.py")}
    return sorted(rooms ^ set(floors))


def upward(root: Path, floors: Mapping[str, int]) -> list[str]:
    """Imports that do not go to a lower floor of the same top folder."""
    wrong = []
    for found in imports(root):
        here, there = room(found.source), room(found.target)
        same_folder = here.split("/")[0] == there.split("/")[0]
        if here != there and same_folder and {here, there} <= set(floors) and floors[there] >= floors[here]:
            wrong.append(f"{found} (floor {floors[here]} to floor {floors[there]})")
    return wrong


def named_by_strings(root: Path) -> list[str]:
    """Strings that name one of our modules in a module that is no catalog."""
    wrong = []
    for path in sources(root):
        if path.as_posix() in CATALOGS:
            continue
        for node in ast.walk(parsed(root / path)):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            named = re.fullmatch(r"(paretovid(?:\.\w+){2,})(?::\w+)?", node.value)
            if named and module_file(root, named[1]) is not None:
                wrong.append(f"{path}:{node.lineno}: {node.value}")
    return wrong


def unresolved(root: Path, folders: tuple[str, ...]) -> list[str]:
    """Imports of modules of ours that are not there, also in scripts that lie as texts of several lines in a file.

    Arguments:
        folders: where to look: tests, for one, which may name a module that has moved until they are run.
    """
    wrong = []
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        trees = [parsed(path)]
        for node in ast.walk(trees[0]):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count("\n") > 2:
                with contextlib.suppress(SyntaxError):
                    trees.append(ast.parse(node.value))
        for node in (each for tree in trees for each in ast.walk(tree)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
                if (root / node.module.replace("paretovid.", "").replace(".", "/")).is_dir():
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            wrong += [
                f"{path.relative_to(root)}:{node.lineno}: {name}"
                for name in names
                if name.split(".")[0] == "paretovid" and "." in name and not _is_there(root, name)
            ]
    return wrong


def _is_there(root: Path, dotted: str) -> bool:
    base = root.joinpath(*dotted.split(".")[1:])
    return base.with_suffix(".py").is_file() or base.is_dir()


def cycles(root: Path) -> list[list[str]]:
    """Modules that import each other in a circle, each circle once and sorted."""
    graph: dict[str, set[str]] = defaultdict(set)
    for found in imports(root):
        graph[found.source].add(found.target)
    reach = {each: _reachable(graph, each) for each in list(graph)}
    circles = {
        tuple(sorted({each} | {other for other in reach[each] if each in reach.get(other, set())}))
        for each in reach
        if each in reach[each]
    }
    return sorted(map(list, circles))


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph.get(start, ()))
    while waiting:
        if (each := waiting.pop()) not in found:
            found.add(each)
            waiting += graph.get(each, ())
    return found


def crowded(root: Path) -> list[str]:
    """Folders with more modules than `MODULES`, `__init__` not counted; and modules directly in platform/."""
    count: dict[str, int] = defaultdict(int)
    for path in sources(root):
        count[path.parent.as_posix()] += path.name != "__init__.py"
    wrong = [
        f"{folder} has {number} modules, of {MODULES} at most"
        for folder, number in sorted(count.items())
        if number > MODULES and folder not in ONE_KIND_ONE_FILE
    ]
    return wrong + [
        f"{path} lies directly in platform/" for path in sources(root) if path.parent == Path("platform")
    ]


def long_files(root: Path) -> dict[str, int]:
    """File to its lines, of those that have too many."""
    lines = {path.as_posix(): (root / path).read_text().count("\n") for path in sources(root)}
    return {path: count for path, count in lines.items() if count > LINES}


def long_functions(root: Path) -> dict[str, int]:
    """`FILE:NAME` to its lines, decorators counted, of functions that have too many."""
    found: dict[str, int] = {}
    for path in sources(root):
        for node in ast.walk(parsed(root / path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                lines = (node.end_lineno or node.lineno) - first + 1
                if lines > FUNCTION_LINES:
                    found[f"{path.as_posix()}:{node.name}"] = lines
    return found


def beyond(found: Mapping[str, int], allowed: Mapping[str, int]) -> list[str]:
    """What is longer than its exception allows, and the exceptions that nothing needs any more."""
    wrong = [f"{name} has {lines} lines" for name, lines in found.items() if lines > allowed.get(name, 0)]
    return wrong + [f"{name} is no exception any more: leave it out" for name in allowed if name not in found]


def spelled_names(root: Path) -> list[str]:
    """Names of files of a home that are spelled where they have no owner; docstrings are none of it."""
    wrong = []
    for path in sources(root):
        if any(path.as_posix().startswith(f"{package}/") for package in FILE_NAME_PACKAGES):
            continue
        tree = parsed(root / path)
        said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node in said:
                continue
            name = node.value.rpartition("/")[2]
            is_unknown = FILE_NAME.fullmatch(name) and not path.as_posix().startswith(FILES_OF_OTHERS)
            if path.as_posix() not in FILE_NAMES[name] if name in FILE_NAMES else is_unknown:
                wrong.append(f"{path}:{node.lineno}: {node.value!r}")
    return wrong


def joined_by_hand(root: Path) -> list[str]:
    """Paths of a home's folders that others than `platform/storage` put together."""
    return [
        f"{path}:{node.lineno}: {ast.unparse(node)}"
        for path in sources(root)
        if path.parent != Path("platform/storage")
        for node in ast.walk(parsed(root / path))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and isinstance(node.left, ast.Attribute | ast.Name)
        and ast.unparse(node.left).endswith("root")
        and isinstance(node.right, ast.Constant)
        and node.right.value in ("data", "backbones", "features", "sweeps")
    ]


def idle_owners(root: Path) -> list[str]:
    """Owners of names that do not spell them any more, as `FILE: NAME`."""
    found = []
    for name, owners in FILE_NAMES.items():
        for owner in owners:
            tree = parsed(root / owner)
            said = [str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)]
            if not any(text.rpartition("/")[2] == name for text in said):
                found.append(f"{owner}: {name}")
    return found


def loose_mappings(root: Path) -> dict[str, int]:
    """Room to how often `dict[str, Any]` and `Mapping[str, Any]` stand in it."""
    found: dict[str, int] = defaultdict(int)
    for path in sources(root):
        text = (root / path).read_text()
        found[room(path.as_posix())] += len(re.findall(r"\b(?:dict|Mapping)\[str, Any\]", text))
    return {each: count for each, count in sorted(found.items()) if count}


def json_mappings(root: Path) -> dict[str, int]:
    """Room to how often `JsonObject`, `dict[str, object]` and `Mapping[str, object]` stand in it, imports not counted.

    They are checked where they are read, unlike `Any`; but what their keys are nobody says either.
    """
    found: dict[str, int] = defaultdict(int)
    for path in sources(root):
        for node in ast.walk(parsed(root / path)):
            is_json = isinstance(node, ast.Name) and node.id == "JsonObject"
            is_object = isinstance(node, ast.Subscript) and re.fullmatch(
                r"(?:dict|Mapping|MutableMapping)\[str, object\]", ast.unparse(node)
            )
            found[room(path.as_posix())] += bool(is_json or is_object)
    return {each: count for each, count in sorted(found.items()) if count}


def private_names(root: Path) -> list[str]:
    """Private names of a library where it has no adapter, as `FILE:LINE: what`.

    Attributes are looked at in platform/ and where a library of `ADAPTERS` is imported, imports everywhere.
    """
    wrong = []
    for path in sources(root):
        tree, place = parsed(root / path), path.as_posix()
        used = {name.split(".")[0] for name, _ in _foreign(tree)} & set(ADAPTERS)
        found = [
            (line, name)
            for name, line in _foreign(tree)
            if re.search(r"\._(?!_)", name) and place not in ADAPTERS.get(name.split(".")[0], ())
        ]
        # platform/ is handed objects of libraries that it need not import.
        has_objects = bool(used) or path.parts[0] == "platform"
        if has_objects and not any(place in ADAPTERS[library] for library in used):
            found += _private_attributes(tree)
        wrong += [f"{path}:{line}: {what}" for line, what in found]
    return wrong


def _foreign(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """What is imported from libraries, and the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        known = {"paretovid", "tests", "_typeshed"} | sys.stdlib_module_names
        yield from ((name, node.lineno) for name in names if name.split(".")[0] not in known)


def _private_attributes(tree: ast.Module) -> list[tuple[int, str]]:
    """Private attributes of anything but `self`, `cls` and `sys`, also by `getattr` and `hasattr`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "sys")):
                found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            named = node.args[1]
            text = str(named.value) if isinstance(named, ast.Constant) else ""
            found += [(node.lineno, ast.unparse(node))] if re.match(r"_[^_]", text) else []
    return found


# The picture

ARCHITECTURE = Path("docs/architecture.md")
_BEGIN, _END = "<!-- floors: drawn by `python -m tests.house` -->\n", "<!-- end of floors -->\n"


def arrows(root: Path, folder: str) -> set[tuple[str, str]]:
    """Which room imports which, inside a top folder."""
    pairs = {(room(found.source), room(found.target)) for found in imports(root)}
    return {(a, b) for a, b in pairs if a != b and a.startswith(f"{folder}/") and b.startswith(f"{folder}/")}


def needed_arrows(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those that do not follow from others: `a` to `c` is left out where `a` leads to `b`, and `b` to `c`."""
    graph: dict[str, set[str]] = defaultdict(set)
    for above, below in pairs:
        graph[above].add(below)
    reach = {each: _reachable(graph, each) for each in list(graph)}
    return {(a, b) for a, b in pairs if not any(b in reach.get(other, ()) for other in graph[a] - {b})}


def picture(root: Path, folder: str, floors: Mapping[str, int]) -> str:
    """The floors of a top folder as a Mermaid diagram."""
    mine = {each: floor for each, floor in floors.items() if each.startswith(f"{folder}/")}
    lines = ["```mermaid", "flowchart TB"]
    for floor in sorted(set(mine.values()), reverse=True):
        lines.append(f'    subgraph {folder}{floor}["floor {floor}"]')
        lines.append("        direction LR")
        names = [each for each, its in mine.items() if its == floor]
        lines += [f'        {_node(each)}["{each.partition("/")[2]}"]' for each in names]
        lines.append("    end")
    pairs = sorted(needed_arrows(arrows(root, folder)), key=lambda pair: (-mine.get(pair[0], 0), pair))
    lines += [f"    {_node(above)} --> {_node(below)}" for above, below in pairs]
    return "\n".join([*lines, "```"])


def _node(name: str) -> str:
    return re.sub(r"\W", "_", name.removesuffix(".py"))


def drawn(root: Path) -> str:
    """What stands between the marks in `docs/architecture.md`."""
    parts = []
    for folder in ("platform", "trainables"):
        pairs = arrows(root, folder)
        rooms = [each for each in FLOORS if each.startswith(f"{folder}/")]
        count = len({FLOORS[each] for each in rooms})
        parts.append(
            f"`{folder}/`: {len(rooms)} rooms on {count} floors, {len(pairs)} arrows; those that follow from others "
            f"are left out.\n\n{picture(root, folder, FLOORS)}\n"
        )
    return "\n".join(parts)


def shown(root: Path) -> str:
    """What stands there now."""
    text = (root / ARCHITECTURE).read_text()
    return text.partition(_BEGIN)[2].partition(_END)[0].strip("\n") + "\n"


def draw(root: Path) -> None:
    """Writes the floors into the page."""
    text = (root / ARCHITECTURE).read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin and end, f"{ARCHITECTURE} has lost its marks"
    (root / ARCHITECTURE).write_text(f"{before}{begin}\n{drawn(root)}\n{end}{after}")


def figures(root: Path) -> str:
    """The house in numbers."""
    lines = []
    for folder in ("platform", "trainables"):
        pairs = arrows(root, folder)
        size = sum((root / p).read_text().count("\n") for p in sources(root) if p.parts[0] == folder)
        loose = sum(count for each, count in loose_mappings(root).items() if each.startswith(folder))
        of_json = sum(count for each, count in json_mappings(root).items() if each.startswith(folder))
        rooms = [each for each in FLOORS if each.startswith(f"{folder}/")]
        lines.append(
            f"{folder}: {len(rooms)} rooms, {len({FLOORS[each] for each in rooms})} floors, {len(pairs)} arrows, "
            f"{size} lines, {loose} loose mappings ({1000 * loose / size:.1f} per 1,000 lines), {of_json} of JSON"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    draw(ROOT)
    sys.stdout.write(figures(ROOT) + "\n")
