"""All searchers by name. A module is imported when its searcher is asked for: each needs another package."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peers.curve_table import CurveTable
from benchmarks.peers.walk import Searcher


class NotInstalledError(ImportError):
    """The package of a peer is not there."""


@dataclass(frozen=True, kw_only=True)
class _Where:
    module: str
    package: str
    """Whose absence is said in words."""


_OPTUNA = _Where(module="optuna_peers", package="optuna")
_NEPS = _Where(module="neps_peer", package="neural-pipeline-search")
_WHERE: dict[str, _Where] = {
    "optuna tpe": _OPTUNA,
    "optuna gp": _OPTUNA,
    "optuna nsga-ii": _OPTUNA,
    "ax": _Where(module="ax_peer", package="ax-platform"),
    "syne tune moasha": _Where(module="syne_tune_peer", package="syne-tune"),
    "neps moasha": _NEPS,
    "neps mo-hyperband": _NEPS,
}
NAMES = tuple(_WHERE)


def searcher(name: str, table: CurveTable, seed: int) -> Searcher:
    """A peer on a table. Raises `NotInstalledError` where its package is not there."""
    where = _WHERE[name]
    try:
        module = importlib.import_module(f"benchmarks.peers.{where.module}")
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            f"{name} cannot be run: {error}. Install it in an environment of its own: pip install {where.package}"
        ) from error
    make: Callable[[CurveTable, str, int], Searcher] = module.make
    return make(table, name, seed)
