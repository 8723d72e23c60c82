"""Small documents on this disk: written whole or not at all.

Of a home, they are read and written through its `Store`; these functions know only the disk.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.documents import parse_json, unreadable


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all, for readers that may look at any time."""
    with partial_file(path.with_name(f"{path.name}.{uuid.uuid4().hex[:6]}.partial")) as partial:
        partial.write_text(text)
        partial.replace(path)


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is none, or a damaged one.

    Raises `DataError` for a file that the disk does not let be read: what it says is not known.
    """
    try:
        document = parse_json(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    return document if isinstance(document, dict) else None
