"""Text with names from files and data sets in it, as a terminal or a log may get it.

A name may hold anything but a slash: escape sequences that rewrite what stands above, a line end that begins a line of
its own, marks that turn the order of letters around, bytes that are no text.
"""

from __future__ import annotations

import re

# Control characters, line and paragraph separators, what changes the direction of writing, halves of surrogate pairs
# (in which Python keeps bytes that are not UTF-8).
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str, keep: str = "") -> str:
    """The text with what controls a terminal escaped, as `\\x1b`.

    Arguments:
        keep: characters that are left as they are, such as the line ends of a whole table.
    """
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), text
    )


def printable_message(text: str) -> str:
    """One message, as `printable`. Its further lines are indented: none can pass for a message of its own."""
    first, *others = printable(text, keep="\n").split("\n")
    return "\n".join([first, *(f"    {line.lstrip()}" for line in others)])
