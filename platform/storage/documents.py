"""Small documents on this disk: written whole or not at all.

Of a home, they are read and written through its `Store`; these functions know only the disk.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all, for readers that may look at any time."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:6]}.partial")
    partial.write_text(text)
    partial.replace(path)


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is none, or none that can be read."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
