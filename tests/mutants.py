"""Do the tests notice wrong code? `make mutants` changes the modules that carry the promises, and asks them.

Each of a seeded sample of changes (`tests/mutations.py`) is made in a copy of the tree, and the tests without Ray that
`tests/mutants.toml` names for its module run there, in a fork of one process that has imported the libraries: those
that run the changed line first, the quickest of them before the others. A change that no test notices has survived;
`tests/mutants.toml` lists those that may, each with its reason. Exit status 1 below `--goal`.

By hand and when an issue ends, not in CI: `make mutants`, `make mutants ARGS='--module fronts --sample 40'`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests.mutations import Mutation, mutations

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".toml")
LEAST = 4
"""Changes that are drawn of the shortest module."""
CHOSEN = ("-m", "not ray")
"""Those that take more than two seconds among them: the quickest that run a changed line come first."""
_LIBRARIES = (
    "torch",
    "torchvision",
    "sklearn.metrics",
    "optuna",
    "mlflow",
    "ray",
    "matplotlib",
    "hydra",
    "boto3",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What `mutants.toml` says."""

    tests: dict[str, list[str]]
    """Module to its tests, files or single ones; those marked `ray` are left out."""
    allowed: list[dict[str, Any]]
    """Survivors: `module`, `line`, `reason`, `becomes` unless any change of the line may survive, and `changes` if
    the program then does something else."""

    def entry(self, mutation: Mutation) -> dict[str, Any] | None:
        """That of a change which may survive."""
        for one in self.allowed:
            is_its_line = (one["module"], one["line"]) == (mutation.module, mutation.line)
            if is_its_line and one.get("becomes") in (None, mutation.becomes):
                return one
        return None

    def gone(self, everything: Mapping[str, Sequence[Mutation]]) -> list[dict[str, Any]]:
        """Survivors that are listed and can no longer be: their line has changed. They are to be taken out."""
        found = {(m.module, m.line, m.becomes) for each in everything.values() for m in each}
        lines = {(module, line) for module, line, _ in found}
        return [
            one
            for one in self.allowed
            if one["module"] in everything
            and (one["module"], one["line"], one.get("becomes")) not in found
            and ("becomes" in one or (one["module"], one["line"]) not in lines)
        ]


def read_table() -> Table:
    """The table of modules, their tests and the survivors that may be."""
    found = tomllib.loads(TABLE.read_text())
    return Table(tests=found["tests"], allowed=found.get("allowed", []))


@dataclass(kw_only=True, slots=True)
class Covered:
    """What the tests of a module did when nothing was wrong."""

    lines: dict[str, set[int]] = field(default_factory=dict)
    """Test to the lines of the module that it ran."""
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    def of(self, number: int) -> list[str]:
        """Tests that run a line, the quickest first."""
        return sorted(
            (t for t, lines in self.lines.items() if number in lines), key=lambda t: self.seconds[t]
        )


class Coverage:
    """A plugin of pytest: which test runs which lines of one module. Written to a file at the end."""

    def __init__(self, module: str, path: Path) -> None:
        self._suffix, self._path = f"/{module}", path
        self._is_mine: dict[str, bool] = {}
        self._ran: set[int] = set()
        self._shared: dict[str, set[int]] = {}
        self._lines: dict[str, set[int]] = {}
        self._seconds: dict[str, float] = {}
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in self._is_mine:
            self._is_mine[name] = name.endswith(self._suffix)
        return self._line if self._is_mine[name] else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self._ran.add(frame.f_lineno)
        return self._line

    def pytest_collection_finish(self) -> None:
        self._imported = set(self._ran)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._ran = set()

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        # What a fixture of the file ran may be what any of its tests looks at.
        self._shared.setdefault(item.nodeid.split("::")[0], set()).update(self._ran)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration
        self._lines.setdefault(report.nodeid, set()).update(self._ran)

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        lines = {
            test: sorted(ran | self._imported | self._shared.get(test.split("::")[0], set()))
            for test, ran in self._lines.items()
        }
        used = time.process_time()
        names = [name for name in sys.modules if name.split(".")[0] not in ("paretovid", "tests", "__main__")]
        document = {"lines": lines, "seconds": self._seconds, "cpu_seconds": used, "imported": names}
        self._path.write_text(json.dumps(document))


def fork(copy: Path, tests: Sequence[str], cpu_seconds: float, *, log: Path, plugin: Coverage | None) -> int:
    """Starts pytest over a copy in a fork of this process; returns the fork's id."""
    sys.stdout.flush()
    if (pid := os.fork()) != 0:
        return pid
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(copy)
        ours = ("", str(ROOT), str(ROOT / "src"))
        sys.path[:] = [str(copy), str(copy / "src"), *(path for path in sys.path if path not in ours)]
        for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        sys.dont_write_bytecode = (
            plugin is None
        )  # times are too coarse to distinguish two changes of a module apart
        # As a worker of several: what is made once a run (tests/conftest.py) is made once for all forks.
        os.environ.update(
            PYTHONPATH=str(copy / "src"), PYTHONDONTWRITEBYTECODE="1", PYTEST_XDIST_WORKER="mutant"
        )
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds), int(cpu_seconds) + 5))
        temporary = copy.parent / f"temporary-of-all/{copy.name}"
        temporary.parent.mkdir(exist_ok=True)
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={temporary}", *CHOSEN]
        status = pytest.main([*options, *tests], plugins=[] if plugin is None else [plugin])
        sys.stdout.flush()
        os._exit(int(status))
    finally:
        os._exit(99)


def ended(pid: int, until: float) -> int:
    """The exit status of a fork, which is ended at `until`; negative for a signal."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what it has left running
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.02)


def copied(to: Path) -> Path:
    """What git tracks or would track, links as links."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)
    return to


def covered(copy: Path, module: str, tests: Sequence[str]) -> Covered | None:
    """Runs the tests of a module as it is; None, and said, if one fails: then nothing can be said of it."""
    path, log = copy.parent / "covered.json", copy.parent / "log"
    path.unlink(missing_ok=True)
    pid = fork(copy, tests, 3000, log=log, plugin=Coverage(module, path))
    sys.settrace(None)
    threading.settrace(None)
    if ended(pid, time.monotonic() + 3000) != 0:
        print(f"{log.read_text()[-4000:]}\nThe tests of {module} fail without any change.", flush=True)
        return None
    found = json.loads(path.read_text())
    for name in found["imported"]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return Covered(
        lines={test: set(lines) for test, lines in found["lines"].items()},
        seconds=found["seconds"],
        cpu_seconds=found["cpu_seconds"],
    )


def outcome(copy: Path, mutation: Mutation, tests: Sequence[str], known: Covered) -> str:
    """`killed`, `killed (time)` or `survived`, of one change in a copy that nobody else uses."""
    target = copy / mutation.module
    before, times = target.read_text(), target.stat()
    for cache in target.parent.glob(f"__pycache__/{target.stem}.*.pyc"):
        cache.unlink()
    target.write_text(mutation.source)
    limits = 30 + 4 * known.cpu_seconds, 120 + 20 * known.cpu_seconds
    mine = known.of(mutation.number)
    try:
        for chosen in ([mine] if mine else []) + ([list(tests)] if len(mine) < len(known.lines) else []):
            pid = fork(copy, chosen, limits[0], log=copy.parent / f"log-{copy.name}", plugin=None)
            status = ended(pid, time.monotonic() + limits[1])
            if status < 0:
                return "killed (time)"
            if status != 0:
                return "killed"
    finally:
        target.write_text(before)
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    return "survived"


def outcomes(
    copies: Sequence[Path], sample: Sequence[Mutation], table: Table, known: Mapping[str, Covered]
) -> Iterator[tuple[Mutation, str]]:
    """Every change of the sample with its outcome, as they come; one process per copy."""
    readers: list[Any] = []
    for i, copy in enumerate(copies):
        read, write = os.pipe()
        sys.stdout.flush()
        if os.fork() == 0:
            with os.fdopen(write, "w") as pipe:
                for place in range(i, len(sample), len(copies)):
                    mutation = sample[place]
                    said = outcome(copy, mutation, table.tests[mutation.module], known[mutation.module])
                    print(json.dumps([place, said]), file=pipe, flush=True)
            os._exit(0)
        os.close(write)
        readers.append(os.fdopen(read))
    lock, found = threading.Condition(), list[tuple[int, str]]()
    left = len(readers)

    def listen(reader: Any) -> None:
        nonlocal left
        for line in reader:
            with lock:
                found.append(tuple(json.loads(line)))
                lock.notify()
        with lock:
            left -= 1
            lock.notify()

    for reader in readers:
        threading.Thread(target=listen, args=(reader,), daemon=True).start()
    while True:
        with lock:
            lock.wait_for(lambda: found or not left)
            if not found:
                return
            place, said = found.pop(0)
        yield sample[place], said


def shown(mutation: Mutation) -> str:
    """Where a change is, and what it is."""
    return (
        f"{mutation.module}:{mutation.number}\n    - {mutation.line}\n    + {mutation.becomes or '(nothing)'}"
    )


def sampled(everything: Sequence[Sequence[Mutation]], size: int) -> list[Mutation]:
    """The first of all by their places; of each module, however short, at least `LEAST`, if that many are asked for."""
    least = min(LEAST, size // max(1, len(everything)))
    chosen = [mutation for each in everything for mutation in each[:least]]
    others = sorted((mutation for each in everything for mutation in each[least:]), key=lambda m: m.place)
    return chosen + others[: size - len(chosen)]


def main() -> int:
    """Draws, runs, reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=200, help="changes to make (default 200)")
    parser.add_argument("--seed", type=int, default=15, help="which ones (default 15)")
    parser.add_argument("--processes", type=int, default=2, help="at a time (default 2)")
    parser.add_argument(
        "--module", action="append", help="only modules whose path holds this; may be repeated"
    )
    parser.add_argument("--goal", type=float, default=0.9, help="share to be noticed (default 0.9)")
    asked = parser.parse_args()
    table = read_table()
    modules = [m for m in table.tests if not asked.module or any(part in m for part in asked.module)]
    everything = {m: mutations(m, (ROOT / m).read_text(), asked.seed) for m in modules}
    drawn = sampled(list(everything.values()), asked.sample)
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory() as scratch:
        first = copied(Path(scratch) / "copy0")
        known: dict[str, Covered] = {}
        for module in dict.fromkeys(mutation.module for mutation in drawn):
            if found := covered(first, module, table.tests[module]):
                known[module] = found
                print(f"{module}: {len(found.lines)} tests, {found.cpu_seconds:.0f} s", flush=True)
        is_whole = all(mutation.module in known for mutation in drawn)
        drawn = [mutation for mutation in drawn if mutation.module in known]
        drawn.sort(
            key=lambda mutation: (known[mutation.module].cpu_seconds, mutation.module, mutation.number)
        )
        copies = [first]
        for i in range(1, asked.processes):
            copies.append(Path(shutil.copytree(first, Path(scratch) / f"copy{i}", symlinks=True)))
        results: list[tuple[Mutation, str]] = []
        for mutation, said in outcomes(copies, drawn, table, known):
            results.append((mutation, said))
            if said == "survived":
                entry = table.entry(mutation)
                may = f" (may: {entry['reason']})" if entry else ""
                print(f"survived{may}: {shown(mutation)}", flush=True)
    status = report(everything, results, table, asked.goal)
    return status if is_whole else 1


def report(
    everything: Mapping[str, Sequence[Mutation]],
    results: Sequence[tuple[Mutation, str]],
    table: Table,
    goal: float,
) -> int:
    """Prints the figures per module and in all; the exit status."""
    counts: dict[str, Counter[str]] = {module: Counter() for module in everything}
    for mutation, said in results:
        entry = table.entry(mutation) if said == "survived" else None
        changes_nothing = entry is not None and not entry.get("changes", False)
        counts[mutation.module]["changes nothing" if changes_nothing else said] += 1
    print(f"\n{'module':45}{'known':>7}{'drawn':>7}{'killed':>8}{'by time':>9}{'same':>6}{'survived':>10}")
    for module, count in counts.items():
        killed = count["killed"] + count["killed (time)"]
        figures = f"{killed:8}{count['killed (time)']:9}{count['changes nothing']:6}{count['survived']:10}"
        print(f"{module:45}{len(everything[module]):7}{count.total():7}{figures}")
    for one in table.gone(everything):
        print(f"no longer there, take it out of {TABLE.name}: {one['module']}: {one['line']}")
    total = sum(counts.values(), Counter[str]())
    changing = total.total() - total["changes nothing"]
    share = 1 - total["survived"] / max(1, changing)
    print(
        f"\n{changing - total['survived']} of {changing} that change something are noticed: {100 * share:.1f} %"
    )
    return 0 if share >= goal else 1


if __name__ == "__main__":
    sys.exit(main())
