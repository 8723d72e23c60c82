"""Small wrong changes of a module's source, one at a time: what `tests/mutants.py` asks the tests to notice.

Comparisons and their boundaries, arithmetic, numbers, truth values, conditions, returned values, statements and
arguments left out. What only a reader sees is left alone: texts, messages of errors, annotations, assertions.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_COMPARED: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_COMPUTED: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
_SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutation:
    """One change of one module."""

    module: str
    """Its path in the repository."""
    source: str
    """The whole module, changed."""
    number: int
    """Of the first line that changes, from 1."""
    line: str
    """That line as it was, without its indentation: with `becomes` the key that outlives changes elsewhere."""
    becomes: str
    place: str
    """Order in a sample: a digest of the change, so that a change elsewhere draws no other ones."""


def mutations(module: str, source: str, seed: int) -> list[Mutation]:
    """Every change of a module that is known here, in the order of the sample that `seed` draws."""
    raw = source.encode()
    finder = _Finder(raw)
    finder.visit(ast.parse(source))
    copies: Counter[tuple[str, str]] = Counter()
    found: dict[str, Mutation] = {}
    for start, end, text in finder.found:
        changed = (raw[:start] + text.encode() + raw[end:]).decode()
        if changed == source or changed in found or not _is_code(changed):
            continue
        number, line, becomes = _difference(source, changed)
        copies[line, becomes] += 1
        key = f"{seed}|{module}|{line}|{becomes}|{copies[line, becomes]}"
        found[changed] = Mutation(
            module=module,
            source=changed,
            number=number,
            line=line,
            becomes=becomes,
            place=hashlib.sha256(key.encode()).hexdigest(),
        )
    return sorted(found.values(), key=lambda mutation: mutation.place)


def _is_code(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _difference(before: str, after: str) -> tuple[int, str, str]:
    """Number of the first line that differs, and what it was and is; nothing if it is gone."""
    old, new = before.splitlines(), after.splitlines()
    for tag, i, k, j, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            return i + 1, " ".join(old[i:k]).strip(), " ".join(line.strip() for line in new[j:m])
    raise AssertionError("nothing differs")


class _Finder(ast.NodeVisitor):
    """Collects (start, end, new text) in bytes of the source."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.found: list[tuple[int, int, str]] = []
        self._lines = [0]
        for line in raw.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def _start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> str:
        return self.raw[self._start(node) : self._end(node)].decode()

    def _replace(self, node: ast.expr | ast.stmt, text: str) -> None:
        self.found.append((self._start(node), self._end(node), text))

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        start, end = self._end(left), self._start(right)
        gap = self.raw[start:end].decode()
        if gap.count(old) == 1:
            self.found.append((start, end, gap.replace(old, new)))

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Constant):
            self._replace(test, f"(not ({self._text(test)}))")

    def _visit_all(self, nodes: Sequence[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    # What only a reader or a type checker sees.
    def visit_Assert(self, node: ast.Assert) -> None: ...
    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...
    def visit_Import(self, node: ast.Import) -> None: ...
    def visit_ImportFrom(self, node: ast.ImportFrom) -> None: ...

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_all([*node.args.defaults, *node.args.kw_defaults, *node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if not isinstance(node.target, ast.Name):
            self._replace(node, "pass")
        self._visit_all([node.value])

    def visit_Assign(self, node: ast.Assign) -> None:
        if not isinstance(node.targets[0], (ast.Name, ast.Tuple)):
            self._replace(node, "pass")
        self._visit_all([node.value])

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass")
        if type(node.op) in _COMPUTED:
            old, new = _COMPUTED[type(node.op)]
            self._between(node.target, node.value, f"{old}=", f"{new}=")
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self._replace(node, "return None")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue")

    def visit_If(self, node: ast.If | ast.While | ast.IfExp) -> None:
        if "TYPE_CHECKING" not in self._text(node.test):
            self._negate(node.test)
            self.generic_visit(node)

    visit_While = visit_If
    visit_IfExp = visit_If

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, right, kind in zip(sides, sides[1:], node.ops, strict=False):
            old, others = _COMPARED[type(kind)]
            for new in others:
                self._between(left, right, old, new)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _COMPUTED:
            self._between(node.left, node.right, *_COMPUTED[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
            self._replace(node, f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":  # of `zip`: an assertion
            self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value))
        elif isinstance(node.value, (int, float)):
            self._replace(node, repr(node.value + 1))

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _SWAPPED:
            self._replace(node.func, _SWAPPED[node.func.id])
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        # A record without a field is no record: nobody has to notice that.
        if not name[:1].isupper():
            self.found += self._dropped(node)
        self.generic_visit(node)

    def _dropped(self, node: ast.Call) -> Iterator[tuple[int, int, str]]:
        given: list[ast.expr | ast.keyword] = sorted([*node.args, *node.keywords], key=self._start)
        for before, keyword in zip([None, *given], given, strict=False):
            if isinstance(keyword, ast.keyword) and keyword.arg not in (None, "strict"):
                start = self._start(keyword) if before is None else self._end(before)
                yield start, self._end(keyword), ""
