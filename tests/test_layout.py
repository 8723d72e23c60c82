"""Guards of the repository's layout: what must stay so for imports, wheels, Ray workers and consumers."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("platform", "trainables", "search_spaces", "infra")
# Folder -> the folders of ours that it may import.
ALLOWED = {
    "platform": set(FOLDERS),
    "trainables": {"trainables"},
    "search_spaces": {"search_spaces", "trainables"},  # the ranges of its numbers
    "infra": {"infra", "trainables"},  # a node's version of the code; objects of a bucket
}
PLATFORM_ONLY = {"ray", "optuna", "mlflow", "hydra"}
PICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


class Import(NamedTuple):
    """One import anywhere in a file, inside functions too."""

    module: str
    line: int


@cache
def repository_files() -> tuple[Path, ...]:
    """What git tracks, or would with `git add`: relative paths of files and links that exist."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (Path(name) for name in listed.split("\0") if name)
    return tuple(sorted(path for path in paths if (ROOT / path).is_symlink() or (ROOT / path).is_file()))


def sources(*folders: str) -> list[Path]:
    found = [path for path in repository_files() if path.suffix == ".py" and path.parts[0] in folders]
    assert found, f"no Python file found in {folders}: this guard would hold for nothing"
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST) -> Iterator[Import]:
    """Each imported module; `from a import b` gives `a.b`, for b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write paretovid.…"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_the_imports_helper_sees_every_kind() -> None:
    code = "import a.b\ndef f():\n    from c import d\nif True:\n    import e as g"
    assert {found.module for found in imports(ast.parse(code))} == {"a.b", "c.d", "e"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_is_linked_into_the_package(folder: str) -> None:
    link = ROOT / "src" / "paretovid" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / folder
    assert link.resolve() == ROOT / folder
    assert Path("src/paretovid", folder) in repository_files()


def test_the_package_is_typed_and_holds_nothing_but_the_links() -> None:
    names = {path.parts[2] for path in repository_files() if path.parts[:2] == ("src", "paretovid")}
    assert names == {"__init__.py", "py.typed", *FOLDERS}


def test_platform_has_no_init_file() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()


@pytest.mark.parametrize("folder", [".", "platform"])
def test_import_platform_is_still_pythons_own(folder: str) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import platform; print(platform.python_version())"
    command = [sys.executable, "-c", code, str(ROOT)]
    answer = subprocess.run(command, cwd=ROOT / folder, capture_output=True, text=True, check=True).stdout
    assert answer.strip() == ".".join(map(str, sys.version_info[:3]))


def test_tests_are_only_in_the_tests_folder() -> None:
    inside = [path for path in repository_files() if path.parts[0] in FOLDERS]
    assert [path for path in inside if re.match(r"(test_.*|.*_test|conftest)\.py$", path.name)] == []


def test_test_folders_are_named_so_that_they_shadow_nothing() -> None:
    folders = {path.parts[1] for path in sources("tests") if len(path.parts) > 2}
    assert folders
    assert {name for name in folders if not name.endswith("_tests")} == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_go_one_way_and_never_the_short_way(folder: str) -> None:
    wrong = []
    for path in sources(folder):
        for module, line in imports(parse(path)):
            parts = module.split(".")
            is_short = parts[0] in {"trainables", "search_spaces", "infra"}
            ours = set(parts[1:2]) & set(FOLDERS) if parts[0] == "paretovid" else set()
            is_against = not ours <= ALLOWED[folder]
            if is_short or is_against:
                wrong.append(f"{path}:{line}: {module}")
    assert wrong == []


def test_trainables_know_nothing_of_the_platforms_libraries() -> None:
    wrong = [
        f"{path}:{line}: {module}"
        for path in sources("trainables")
        for module, line in imports(parse(path))
        if module.split(".")[0] in PLATFORM_ONLY
    ]
    assert wrong == []


def pickling(tree: ast.AST) -> Iterator[str]:
    """Whatever in a file could read or write a pickle."""
    for module, line in imports(tree):
        if module.split(".")[0] in PICKLING or module in {"torch.load", "torch.save"}:
            yield f"{line}: {module}"
    # Which reads tensors and cannot run code: for weights that others published.
    harmless = {
        node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and reads_only_weights(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "torch" and node.attr in {"load", "save"} and node not in harmless:
                yield f"{node.lineno}: torch.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not is_false(node.value):
            yield f"{node.value.lineno}: allow_pickle"


def reads_only_weights(call: ast.Call) -> bool:
    """`torch.load(..., weights_only=True)`, written out."""
    is_load = isinstance(call.func, ast.Attribute) and call.func.attr == "load"
    given = {keyword.arg: keyword.value for keyword in call.keywords}.get("weights_only")
    return is_load and isinstance(given, ast.Constant) and given.value is True


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from torch import load",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "torch.load('x', weights_only=safe)",
        "torch.save(x, 'x', weights_only=True)",
        "np.load('x', allow_pickle=True)",
    ],
)
def test_the_pickling_helper_sees_it(code: str) -> None:
    assert list(pickling(ast.parse(code)))


@pytest.mark.slow
def test_nothing_reads_or_writes_pickles() -> None:
    for harmless in ("np.load('x', allow_pickle=False)", "torch.load('x', weights_only=True)"):
        assert not list(pickling(ast.parse(harmless)))
    wrong = [f"{path}:{found}" for path in sources(*FOLDERS) for found in pickling(parse(path))]
    assert wrong == []


def test_nothing_in_the_repository_is_large() -> None:
    sizes = {str(path): (ROOT / path).lstat().st_size for path in repository_files()}
    assert {path: size for path, size in sizes.items() if size > 1_000_000} == {}


def test_every_relative_link_in_the_documents_resolves() -> None:
    documents = [path for path in repository_files() if path.suffix == ".md"]
    assert {Path("README.md"), Path("CONTRIBUTING.md")} <= set(documents)
    broken = []
    for document in documents:
        text = re.sub(r"```.*?```", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"!?\[[^\]]*\]\(<?([^)>\s]+)", text):
            if re.match(r"[a-z]+:|#", target):
                continue
            if not (ROOT / document.parent / target.partition("#")[0]).exists():
                broken.append(f"{document}: {target}")
    assert broken == []


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_every_data_file(tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    for path in repository_files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy / path, follow_symlinks=False)
    # Without isolation and dependencies nothing is downloaded.
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(tmp_path), str(copy)], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packed = {Path(name) for name in names if name.startswith("paretovid/")}
    kinds = {".py", ".toml", ".yaml", ".yml", ".html", ".json", ".typed"}
    expected = {
        Path("paretovid", path)
        for path in repository_files()
        if path.parts[0] in FOLDERS and path.suffix in kinds
    }
    assert packed - {Path("paretovid/__init__.py"), Path("paretovid/py.typed")} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)
