"""The code that travels with a promoted model: a copy of the modules that prediction needs.

MLflow puts a model's code on `sys.path`, where two versions of one package would shadow each other in one
process. The copy is therefore named after its content, `paretovid_runtime_<8 hex digits>`, and its imports
are rewritten to that name.
"""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

PACKAGE = "paretovid.trainables"
PREFIX = "paretovid_runtime_"
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


def write_runtime_package(folder: Path, entry: str = "recognizer", root: Path = _ROOT) -> str:
    """Writes the package into `folder` and returns its name. The same code always gives the same name."""
    modules = needed_modules(entry, root)
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in modules.values()}
    digest = hashlib.sha256()
    for name, text in texts.items():
        digest.update(name.encode() + b"\0" + text.encode() + b"\0")
    package = PREFIX + digest.hexdigest()[:8]
    for name, text in texts.items():
        target = folder / package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rewritten(text, package))
    return package
