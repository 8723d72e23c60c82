"""Words that the code used to have of its own where its field has a term: they must not come back.

Names are checked where they are defined (functions, classes, parameters, variables, attributes, keys of YAML), so that
a library may call things as it likes: Optuna's `study.tell` is used, and nothing of ours is called so. Sentences, and
names of tests, which are sentences, are checked for the few words that mean nothing else.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

FOLDERS = ("platform", "trainables", "search_spaces", "infra", "benchmarks", "examples", "tests")

NAMES: Mapping[str, str] = {
    "blame": "infrastructure failure, or counted failure",
    "dear": "expensive",
    "dearer": "expensive",
    "dearest": "most expensive",
    "facts": "info",
    "guilty": "counted failure",
    "heeded": "polling",
    "hooks": "callback",
    "innocent": "infrastructure failure",
    "looks": "reads",
    "mend": "repair",
    "mended": "repaired",
    "mends": "repairs",
    "natural": "default",
    "overseer": "watchdog",
    "remarks": "warnings",
    "signs": "heartbeat",
    "stated": "given",
    "tell": "report, notify or send",
    "tells": "reports, notifies or sends",
    "telling": "reporting, notifying or sending",
    "told": "reported, notified or sent",
    "truth": "ground truth",
}
"""A word of a name to what it is called instead."""

SENTENCES: Mapping[str, str] = {
    r"natural settings?": "default setting",
    r"dearer|dearest": "(most) expensive",
    r"signs? of life": "heartbeat",
    r"tell_swept": "report_all_points",
    r"handed out": "dispatched",
    r"set aside": "requeued or reserved",
    r"put away": "discarded",
    r"mended|mends": "repaired, repairs",
    r"innocent|guilty": "infrastructure failure, counted failure",
    r"the same command goes on": "the same command resumes",
}
"""A pattern to what is written instead, in docstrings, comments, other texts of the code, YAML and all pages."""

_LOOSE = [pattern.replace("_", " ") for pattern in SENTENCES]

PAGES = ("*.md", "docs/*.md", "benchmarks/*.md", "examples/**/*.md")
PAGES_OF_FORMER_NAMES = ("docs/moved_modules.md",)
OWN_FILES = ("tests/words.py", "tests/test_house.py")
"""They have to spell the words."""


def former_names(root: Path) -> list[str]:
    """`FILE:LINE: NAME: what instead` of names with a word that is no longer used."""
    found = []
    for path in _files(root, "*.py"):
        for line, name in _defined(ast.parse((root / path).read_text(encoding="utf-8"))):
            found += [f"{path}:{line}: {name}: {instead}" for instead in _instead(name)]
    for path in _files(root, "*.yaml"):
        for line, text in enumerate((root / path).read_text(encoding="utf-8").splitlines(), start=1):
            if key := re.match(r"[\s-]*(\w+):", text):
                found += [f"{path}:{line}: {key[1]}: {instead}" for instead in _instead(key[1])]
    return found


def former_words(root: Path) -> list[str]:
    """`FILE: what is written: what instead` of sentences with a word that is no longer used."""
    sources = ((path, (root / path).read_text(encoding="utf-8")) for path in _files(root, "*.py"))
    texts = [(path, "\n".join(_prose(source))) for path, source in sources if _may_have_one(source)]
    pages = [
        *_files(root, "*.yaml"),
        *(p.relative_to(root).as_posix() for each in PAGES for p in root.glob(each)),
    ]
    texts += [
        (path, (root / path).read_text(encoding="utf-8"))
        for path in pages
        if path not in (*PAGES_OF_FORMER_NAMES, "CHANGELOG.md")
    ]
    return [
        f"{path}: {match[0]}: {instead}"
        for path, text in texts
        for pattern, instead in SENTENCES.items()
        for match in re.finditer(rf"\b(?:{pattern})\b", re.sub(r"\s+", " ", text), re.IGNORECASE)
    ]


def _files(root: Path, pattern: str) -> list[str]:
    paths = (path.relative_to(root).as_posix() for each in FOLDERS for path in (root / each).rglob(pattern))
    return sorted(path for path in paths if path not in OWN_FILES)


def _instead(name: str) -> Iterator[str]:
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    for before, word in pairwise(["", *words]):
        if word in NAMES and (before, word) != ("ground", "truth"):
            yield NAMES[word]


def _defined(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) if name.startswith("test_"):
                continue
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case (
                ast.arg(arg=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)):
                yield node.lineno, name


def _may_have_one(source: str) -> bool:
    """Whether a sentence could be there, read quickly: code is taken for prose, and few files are left to be parsed."""
    text = re.sub(r"[\s#_]+", " ", source)
    return any(re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE) for pattern in _LOOSE)


def _prose(source: str) -> Iterator[str]:
    """Docstrings, those of fields among them, other texts of several words, comments, and names of tests."""
    for node in ast.walk(ast.parse(source)):
        match node:
            # A single word may be a name that something else has, a setting before it was renamed for example.
            case ast.Constant(value=str(text)) if " " in text.strip():
                yield text
            case ast.FunctionDef(name=name) if name.startswith("test_"):
                yield name.replace("_", " ")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")
