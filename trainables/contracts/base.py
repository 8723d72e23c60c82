"""What the suites share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from paretovid.trainables.plugins.catalog import use_plugins


class Contract:
    """What the suites share."""

    plugins: ClassVar[Sequence[str]] = ()
    """Modules to import first, as `plugins=[...]` does; none for a plug-in that is installed."""
    name: ClassVar[str]
    """As it is registered."""

    def setup_method(self) -> None:
        """Makes what the plug-in adds known."""
        use_plugins(self.plugins)
