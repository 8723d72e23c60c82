"""The code that travels with a promoted model: a copy of the modules that prediction needs.

MLflow puts a model's code on `sys.path`, where two versions of one package would shadow each other in one
process. The copy is therefore named after its content, `paretovid_runtime_<8 hex digits>`, and its imports
are rewritten to that name.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from paretovid.trainables.plugins.catalog import imported_names, own_modules

PACKAGE = "paretovid.trainables"
PREFIX = "paretovid_runtime_"
PLUGGED = "plugged"
"""The folder of the copy that holds the modules of plug-ins."""
Plugged = Mapping[str, Mapping[str, str]]
"""Group of entry points to name to `module:attribute`, or to a module that registers it."""
_ROOT = Path(__file__).parents[2] / "trainables"
_ENTRY = re.compile(rf"{re.escape(PACKAGE)}(\.\w+)+(:\w+)?")
"""A catalog names its entries by import strings."""


def _module_path(root: Path, name: str) -> Path | None:
    """The file of the dotted module `name` below `root` (`""`: the package itself), if there is one."""
    base = root.joinpath(*name.split(".")) if name else root
    for path in (base.with_suffix(".py") if name else base, base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, as dotted names below it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and _ENTRY.fullmatch(str(node.value)):
            names = [str(node.value).partition(":")[0]]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "paretovid" and not f"{name}.".startswith(f"{PACKAGE}."):
                raise ValueError(f"{path} imports {name}, which does not travel with a model")
            if f"{name}.".startswith(f"{PACKAGE}."):
                found.add(name.removeprefix(PACKAGE).lstrip("."))
    return found


def needed_modules(entry: str = "recognizer", root: Path = _ROOT) -> dict[str, Path]:
    """Dotted name below `paretovid.trainables` to file: `entry`, all that it imports, and their packages."""
    found: dict[str, Path] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        path = _module_path(root, name)
        if name in found or path is None:  # an imported function or class, not a module
            continue
        found[name] = path
        waiting += sorted(_imports(path))
        waiting += [name.rpartition(".")[0]]
    return dict(sorted(found.items()))


def rewritten(source: str, package: str) -> str:
    """Source text with its imports of `paretovid.trainables` led to `package`."""
    return source.replace(PACKAGE, package)


def write_runtime_package(
    folder: Path, entry: str = "recognizer", root: Path = _ROOT, plugged: Plugged | None = None
) -> str:
    """Writes the package into `folder` and returns its name. The same code always gives the same name.

    Arguments:
        plugged: what the model takes of plug-ins. Their own modules lie in the package, under `plugged`.
    """
    modules = needed_modules(entry, root)
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in modules.values()}
    added = {entry for group in (plugged or {}).values() for entry in group.values()}
    theirs = own_modules({where.partition(":")[0] for where in added})
    placed = {_place(name, path): (name, path.read_text()) for name, path in theirs.items()}
    digest = hashlib.sha256()
    for name, text in (*texts.items(), *((place, text) for place, (_, text) in placed.items())):
        digest.update(name.encode() + b"\0" + text.encode() + b"\0")
    if plugged:
        digest.update(json.dumps(plugged, sort_keys=True).encode())
    package = PREFIX + digest.hexdigest()[:8]
    tops = {name.partition(".")[0] for name in theirs}
    written = {name: rewritten(text, package) for name, text in texts.items()}
    written |= {
        place: rewritten(_led_into(text, f"{package}.{PLUGGED}", tops), package)
        for place, (_, text) in placed.items()
    }
    if plugged:
        written["plugins/packed.py"] = _packed(plugged, f"{package}.{PLUGGED}")
        written.setdefault(f"{PLUGGED}/__init__.py", "")
    for name, text in written.items():
        target = folder / package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return package


def _place(name: str, path: Path) -> str:
    """Where a plug-in's module lies in the package."""
    parts = name.split(".")
    tail = f"{parts[-1]}/__init__.py" if path.name == "__init__.py" else f"{parts[-1]}.py"
    return "/".join([PLUGGED, *parts[:-1], tail])


def _packed(plugged: Plugged, package: str) -> str:
    """The text of `plugins/packed.py` of the copy."""
    entries = {
        group: {name: f"{package}.{where}" for name, where in names.items()}
        for group, names in plugged.items()
    }
    return f'"""What this model carries of plug-ins."""\n\nENTRIES = {json.dumps(entries, indent=4)}\n'


def _led_into(source: str, package: str, tops: set[str]) -> str:
    """Source text of a plug-in with the imports of its own modules led into `package`; relative ones stay."""
    lines = source.encode().splitlines(keepends=True)
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in sorted(found, key=lambda node: node.lineno, reverse=True):
        text = _import_led_into(node, package, tops)
        if text is not None:
            first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
            before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
            lines[first : last + 1] = [before + text.encode() + after]
    return b"".join(lines).decode()


def _import_led_into(node: ast.Import | ast.ImportFrom, package: str, tops: set[str]) -> str | None:
    """The statement that takes its place; None if it may stay."""
    if isinstance(node, ast.ImportFrom):
        if node.level or not node.module or node.module.partition(".")[0] not in tops:
            return None
        return ast.unparse(ast.ImportFrom(module=f"{package}.{node.module}", names=node.names, level=0))
    if not any(alias.name.partition(".")[0] in tops for alias in node.names):
        return None
    statements = []
    for alias in node.names:
        top = alias.name.partition(".")[0]
        if top not in tops:
            statements.append(ast.unparse(ast.Import(names=[alias])))
        elif alias.asname:
            statements.append(f"import {package}.{alias.name} as {alias.asname}")
        else:  # which binds the first part of the name
            statements += [f"import {package}.{alias.name}", f"from {package} import {top}"]
    return "; ".join(statements)


def third_party_requirements(plugged: Plugged) -> list[str]:
    """Distributions that the modules of plug-ins import, by their names in a package index."""
    modules = own_modules({where.partition(":")[0] for names in plugged.values() for where in names.values()})
    tops = {name.partition(".")[0] for name in modules}
    imported = {
        each.partition(".")[0] for name, path in modules.items() for each in imported_names(path, name)
    }
    foreign = imported - tops - set(sys.stdlib_module_names) - {"paretovid"}
    if not foreign:
        return []
    known = importlib.metadata.packages_distributions()
    return sorted({known[top][0] for top in foreign if top in known})
