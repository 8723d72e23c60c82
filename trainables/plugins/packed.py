"""What a promoted model carries of plug-ins. Empty here: `registry/runtime_code.py` writes the copy that travels."""

from __future__ import annotations

from collections.abc import Mapping

ENTRIES: Mapping[str, Mapping[str, str]] = {}
"""Group of entry points to name to `module:attribute`, or to a module that registers it."""
