"""Catalogs of what there is to choose from by name, and the plug-ins that add to them.

A **catalog** (of methods, families of backbones, readers) knows its entries by import strings, `module:attribute`, and
imports one when it is first asked for. Its entries come from

    this package          by import strings in the module that holds the catalog
    installed plug-ins    by entry points of the catalog's group, `paretovid.methods` for example
    `plugins=[module]`    modules that need not be installed; importing one registers what it adds

What a promoted model carries of plug-ins is listed in `packed.py` of its own copy of this package; there neither entry
points nor the environment count.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from paretovid.trainables.errors import ParetovidError, UsageError, unknown_name
from paretovid.trainables.plugins import packed

GROUPS = ("paretovid.methods", "paretovid.backbones", "paretovid.readers")
"""Entry points whose modules are needed on every node. Those of samplers (`search_spaces/samplers.py`) are not: they
run in the driver alone."""
VARIABLE = "PARETOVID_PLUGINS"
"""Names the modules of `plugins=[...]` to the processes that a command starts, here and on other nodes."""
_OURS = __name__.partition(".")[0]
IS_COPY = _OURS != "paretovid"
"""Whether this is the copy that travels with a promoted model."""
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Where an entry of a catalog comes from.

    Arguments:
        where: `module:attribute`; or `module`, whose import registers it.
        plugin: what brought it, for messages: `my-plugins 0.1`, `plugins=[my_module]`; "" for this package itself.
    """

    where: str
    plugin: str = ""

    @property
    def module(self) -> str:
        """The module that has to be imported for it."""
        return self.where.partition(":")[0]

    @property
    def is_own(self) -> bool:
        """Whether it is of this package."""
        return self.module.startswith(f"{_OURS}.")

    def __str__(self) -> str:
        return f"{self.where} (of {self.plugin})" if self.plugin else self.where


class Catalog(Generic[T]):
    """What there is of one kind, by name. An entry is imported when it is first asked for.

    Arguments:
        kind: for messages: `method`.
        group: the entry points that add to it.
        check: `(name, found, where)` to the entry; raises `UsageError` that says which rule of the contract it breaks.
    """

    def __init__(self, kind: str, group: str, check: Callable[[str, object, str], T]) -> None:
        self.kind = kind
        self.group = group
        self._check = check
        self._entries: dict[str, Entry] = {}
        self._values: dict[str, T] = {}
        self._has_installed = False

    def own(self, entries: Mapping[str, str]) -> None:
        """Adds entries of this package: name to `module:attribute`, or to a module that registers it."""
        for name, where in entries.items():
            self._add(name, Entry(where=where))

    def register(self, name: str, value: T, where: str) -> None:
        """Adds an entry that is there already, while its module is imported.

        Raises `UsageError` if the name is taken by another one, or if the value breaks the contract.
        """
        checked = self._check(name, value, where)
        self._add(name, Entry(where=where, plugin=_label_now(where)))
        self._values[name] = checked

    def names(self) -> tuple[str, ...]:
        """The names of all entries, sorted. Raises `UsageError` if plug-ins give two entries one name."""
        return tuple(sorted(self._all()))

    def entry(self, name: str) -> Entry:
        """Where an entry comes from. Raises `UnknownNameError` that lists what there is, the closest first."""
        entries = self._all()
        if name not in entries:
            raise unknown_name(self.kind, name, entries)
        return entries[name]

    def get(self, name: str) -> T:
        """The entry of that name.

        Raises `UnknownNameError` that lists what there is, `UsageError` for a plug-in that cannot be imported or whose
        entry breaks the contract.
        """
        entry = self.entry(name)
        if name not in self._values:
            module, _, attribute = entry.where.partition(":")
            imported = _import(module, entry.plugin)
            if attribute:
                self._values[name] = self._check(name, _attribute(imported, attribute, entry), entry.where)
            elif name not in self._values:
                raise UsageError(
                    f"{entry} registers no {self.kind} {name!r} when it is imported", "See docs/plugins.md."
                )
        return self._values[name]

    def get_all(self) -> list[T]:
        """Every entry, by name. Raises as `get` does."""
        return [self.get(name) for name in self.names()]

    def _all(self) -> Mapping[str, Entry]:
        if not self._has_installed:
            use_requested_plugins()
            for name, entry in installed_entries(self.group):
                self._add(name, entry)
            self._has_installed = True
        return self._entries

    def _add(self, name: str, entry: Entry) -> None:
        there = self._entries.get(name)
        if there is None:
            self._entries[name] = entry
        elif not _is_same(there, entry):
            raise UsageError(
                f"the {self.kind} {name!r} is there twice: {there}, and {entry}",
                "Give one of them another name, or leave out the plug-in that brings it.",
            )


def _is_same(one: Entry, other: Entry) -> bool:
    """Whether both name one thing, found on two ways: as an entry point and by its module's import, for example."""
    whole = ":" in one.where and ":" in other.where
    return one.where == other.where if whole else one.module == other.module


def _attribute(module: ModuleType, path: str, entry: Entry) -> object:
    try:
        return functools.reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise UsageError(
            f"{entry}: {error}", "Its entry point must name an attribute that is there."
        ) from error


# Modules that are asked for by name

_used: dict[str, ModuleType] = {}
_importing: list[str] = []
_registered_in: set[str] = set()
"""The modules of plug-ins that have registered something, by whatever they were imported."""


def used_plugins() -> tuple[str, ...]:
    """The modules of `plugins=[...]` that this process uses."""
    use_requested_plugins()
    return tuple(_used)


def use_plugins(names: Sequence[str]) -> None:
    """Imports modules, each of which registers what it adds; processes that are started from here do so, too.

    They may lie in the current folder or on PYTHONPATH, or be installed.

    Raises `UsageError` for one that is not there (says what was searched), that does not import, that registers nothing
    or a name that is taken.
    """
    here = str(Path.cwd())
    if names and here not in sys.path:
        # At the end: a file of the user's must not take the place of an installed package.
        sys.path.append(here)
        importlib.invalidate_caches()
    for name in names:
        if not _MODULE.fullmatch(name):
            raise UsageError(
                f"plugins: {name!r} is no name of a module",
                "Write it as Python imports it: plugins=[my_package.my_module], without .py.",
            )
        if name not in _used:
            _use(name)
    if _used:
        os.environ[VARIABLE] = ",".join(_used)


def use_requested_plugins() -> None:
    """In a process that a command has started: the plug-ins that the command uses."""
    wanted = [] if IS_COPY or _importing else os.environ.get(VARIABLE, "").split(",")
    use_plugins([name for name in wanted if name and name not in _used])


def _use(name: str) -> None:
    label = f"plugins=[{name}]"
    _importing.append(label)
    try:
        module = _import(name, label)
    finally:
        _importing.pop()
    if not _registered_in & {name, *own_modules([name])}:
        raise UsageError(
            f"{label} registers nothing: {getattr(module, '__file__', name)}",
            "A plug-in decorates its method with @register, or calls register_family, register_reader or "
            "register_sampler.",
        )
    _used[name] = module


def _label_now(where: str) -> str:
    if where.startswith(f"{_OURS}."):
        return ""
    _registered_in.add(where.partition(":")[0])
    return _importing[-1] if _importing else ""


def _import(name: str, plugin: str) -> ModuleType:
    """Imports a module. What goes wrong with one of a plug-in is a `UsageError`."""
    try:
        return importlib.import_module(name)
    except ParetovidError:
        raise
    except Exception as error:
        if not plugin:
            raise
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"{plugin}: there is no module {name}", _searched()) from error
        raise UsageError(
            f"{plugin} does not import: {type(error).__name__}: {error}{_place_of(error)}",
            f"python -c 'import {name}' shows where; what it needs must be installed.",
        ) from error


def _place_of(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return ""  # says so itself
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _searched() -> str:
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    listed = ", ".join(filter(None, given)) or "not set"
    return (
        f"Searched: what is installed in {sys.prefix}; PYTHONPATH ({listed}); the current folder {Path.cwd()}. Is it "
        "spelled right, and are you in its folder?"
    )


def calling_module() -> str:
    """The module that calls the function that calls this one: where something is registered."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))


# Installed plug-ins


@functools.cache
def installed_entries(group: str) -> tuple[tuple[str, Entry], ...]:
    """Name and entry of each entry point of a group."""
    if IS_COPY:
        return tuple((name, Entry(where=where)) for name, where in packed.ENTRIES.get(group, {}).items())
    found = []
    for point in importlib.metadata.entry_points(group=group):
        distribution = point.dist
        label = (
            "an installed plug-in" if distribution is None else f"{distribution.name} {distribution.version}"
        )
        where = f"{point.module}:{point.attr}" if point.attr else point.module
        found.append((point.name, Entry(where=where, plugin=label)))
    return tuple(sorted(found, key=lambda pair: (pair[0], pair[1].where)))


def plugin_modules() -> tuple[str, ...]:
    """The modules that plug-ins add something by: those of entry points and of `plugins=[...]`, sorted."""
    installed = {entry.module for group in GROUPS for _, entry in installed_entries(group)}
    return tuple(sorted({*installed, *used_plugins()}))


# The code of plug-ins


@functools.cache
def plugin_digest(modules: tuple[str, ...]) -> bytes:
    """Of the source files of plug-ins; empty if there is none.

    Arguments:
        modules: dotted names, sorted.
    """
    if not modules:
        return b""
    digest = hashlib.sha256()
    for name, path in own_modules(modules).items():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.digest()


def plugin_version(module: str) -> str | None:
    """What tells one edition of a plug-in from another: `my-plugins 0.1, code 12ab34cd56ef`; None if it is not here.

    Raises `UsageError` if it is here and does not import.
    """
    if module not in own_modules([module]):
        return None
    named = {
        entry.plugin for group in GROUPS for _, entry in installed_entries(group) if entry.module == module
    }
    _import(module, " and ".join(sorted(named)) or f"plugins=[{module}]")
    return ", ".join([*sorted(named), f"code {plugin_digest((module,)).hex()[:12]}"])


def own_modules(entries: Iterable[str]) -> dict[str, Path]:
    """Dotted name to file: modules of plug-ins, what they import that is not installed beside them, and their packages.

    What is installed on its own (numpy, a library of networks) is not theirs, and nor is Python's or this package.
    """
    wanted = list(entries)
    tops = {name.partition(".")[0] for name in wanted}
    found: dict[str, Path] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        path = _source_of(name, tops)
        if name in found or path is None:
            continue
        found[name] = path
        waiting += imported_names(path, name)
    for name in list(found):
        for parent in _parents(name):
            path = _source_of(parent, tops)
            if path is not None and parent not in found:
                found[parent] = path
    return dict(sorted(found.items()))


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def imported_names(path: Path, name: str) -> list[str]:
    """All that a source file imports, as absolute dotted names: `from a import b` gives `a` and `a.b`.

    Arguments:
        name: of the module that the file is.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return found


def _source_of(name: str, tops: set[str]) -> Path | None:
    """The source file of a plug-in's own module; None for others. Imports nothing."""
    top, *rest = name.split(".")
    if top in sys.stdlib_module_names or top == "paretovid":
        return None
    spec = None
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    roots = [Path(folder) for folder in spec.submodule_search_locations or ()]
    file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    is_installed = any(
        {"site-packages", "dist-packages"} & set(each.parts) for each in [*roots, *filter(None, [file])]
    )
    if is_installed and top not in tops:
        return None
    if not rest:
        return file
    for root in roots:
        base = root.joinpath(*rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def plugin_roots() -> list[Path]:
    """The packages and single files of the modules of `plugins=[...]`, for nodes that lack them."""
    roots = set()
    for name, path in own_modules(used_plugins()).items():
        is_package = path.name == "__init__.py"
        roots.add(
            path if "." not in name and not is_package else path.parents[name.count(".") - (not is_package)]
        )
    return sorted(roots)


def check_travels(entry: Entry, what: str) -> None:
    """Checks that workers will know an entry and that it can be promoted.

    Arguments:
        what: it is, for messages: `method mine`.

    Raises `UsageError` if its module is imported in this process only, or if its files import more of this package than
    travels with a model.
    """
    if entry.is_own:
        return
    if entry.module not in own_modules(plugin_modules()):
        raise UsageError(
            f"the {what} was registered by importing {entry.module}, which no worker imports",
            f"Give plugins=[{entry.module}], or declare it as an entry point: docs/plugins.md.",
        )
    for name, path in own_modules([entry.module]).items():
        for imported in imported_names(path, name):
            if imported.startswith("paretovid.") and not f"{imported}.".startswith("paretovid.trainables."):
                raise UsageError(
                    f"the {what} cannot be promoted: {path} imports {imported}, which does not travel with a model",
                    "A plug-in's method and backbones import nothing of paretovid but paretovid.trainables.",
                )


def search_space_folders() -> list[Path]:
    """Folders `search_spaces` of plug-ins: beside a module of `plugins=[...]`, or in a plug-in's package."""
    found: list[Path] = []
    for name in plugin_modules():
        path = _source_of(name, {name.partition(".")[0]})
        if path is None:
            continue
        depth = name.count(".") + (path.name == "__init__.py")
        levels = [path.parent, *path.parents[1 : max(1, depth)]]
        if depth == 0 and name not in _used:
            continue  # beside a single file that is installed lie the files of all others
        found += [level / "search_spaces" for level in levels if (level / "search_spaces").is_dir()]
    return list(dict.fromkeys(found))
