"""All samplers by name: what a study may ask for its next configuration.

They run in the driver alone, and nothing of them travels with a model or to another node by entry points.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from paretovid.trainables.errors import UsageError
from paretovid.trainables.plugins.catalog import Catalog, calling_module

Sampler: TypeAlias = Callable[[Any, int], Mapping[str, int | float | str]]
"""`(asked, seed)` to a value for every knob. `asked` is an `Asked` of `platform/search/samplers.py`: what was tried,
what it came to and what runs. The same of both give the same, so that a search that was killed suggests what it would
have. It is asked once there are three results (or the two anchors, of a search that begins with no more)."""

RANDOM = "random"
"""The one that needs no results."""


def _checked(name: str, found: object, where: str) -> Sampler:
    """The sampler. Raises `UsageError` that says which rule of the contract it breaks."""
    rule = None
    if not callable(found):
        rule = f"it is {found!r}, and must be a function of what is asked and a seed"
    else:
        try:
            inspect.signature(found).bind(None, 0)
        except TypeError as error:
            rule = f"it must take what is asked and a seed: {error}"
    if rule is not None or not callable(found):
        raise UsageError(
            f"{where} breaks the contract of a sampler: {rule}",
            "search_spaces/samplers.py states the contract.",
        )
    return found


SAMPLERS: Catalog[Sampler] = Catalog("sampler", "paretovid.samplers", _checked)
SAMPLERS.own(
    {
        "curves": "paretovid.platform.search.samplers:CURVES",
        "gp": "paretovid.platform.search.samplers:GP",
        RANDOM: "paretovid.platform.search.samplers:random_configuration",
        "tpe": "paretovid.platform.search.samplers:TPE",
    }
)


def register_sampler(name: str, sampler: Sampler) -> None:
    """Makes a sampler known by a name; called by a module when it is imported.

    Raises `UsageError` if another one has the name, or if it breaks the contract.
    """
    SAMPLERS.register(name, sampler, calling_module())
