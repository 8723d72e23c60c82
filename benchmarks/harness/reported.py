"""What is reported of anything that is measured: tables of results, and where its page shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.harness.document import Layout, results_of
from benchmarks.harness.results import Results
from benchmarks.harness.tables import PageTable, Shown

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reported:
    """The part of a declaration that says what is made of what was measured."""

    common: ClassVar[tuple[str, ...]] = ()
    """What the runner adds to every document."""
    name: str
    about: str
    """One line, for the list."""
    layouts: Mapping[str, Layout]
    """Table of the results to where its rows lie in the document."""
    alone: Sequence[str] = ()
    """Names of the document that belong to all tables."""
    page: str = ""
    """Its page beside the file; default: NAME.md."""
    shown: Sequence[Shown | Callable[[Results], str]] = ()
    """Tables that are printed."""
    is_verbatim: bool = False
    """The page shows the printed tables line by line."""
    page_tables: Sequence[PageTable] = ()
    """Tables of the page in its own words."""

    def results(self, document: Document) -> Results:
        """Tables of a document. Raises `ValueError` for a figure that no table holds."""
        return results_of(document, self.layouts, (*self.common, *self.alone))

    def text(self, results: Results) -> str:
        """All printed tables in Markdown."""
        texts = (each.text(results) if isinstance(each, Shown) else each(results) for each in self.shown)
        return "\n\n".join(text for text in texts if text)
