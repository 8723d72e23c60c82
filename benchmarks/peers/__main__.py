"""`python -m benchmarks.peers NAME TABLE.npz ... --out FOLDER`: the rows that a peer takes, a CSV file for each search.

Run in an environment that has the peer and NumPy; where it has not, this says so and writes nothing. Searches whose
files are there are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.peers.curve_table import CurveTable
from benchmarks.peers.searchers import NAMES, NotInstalledError, searcher
from benchmarks.peers.traces import Trace, trace_path, write_trace
from benchmarks.peers.walk import walk


def main() -> None:
    """For a shell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("tables", type=Path, nargs="+", help="METHOD.npz of results/search_table")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=800, help="that a search spends")
    parser.add_argument("--out", type=Path, required=True, help="folder of the searches")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tables = [CurveTable.read(path) for path in arguments.tables]
    for seed in range(arguments.seeds):
        for table in tables:
            path = trace_path(arguments.out, table.method, arguments.name, seed)
            if path.exists():
                continue
            try:
                peer = searcher(arguments.name, table, seed)
            except NotInstalledError as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(1) from error
            steps = tuple(walk(table, peer, budget_epochs=arguments.epochs))
            write_trace(path, Trace(method=table.method, searcher=arguments.name, seed=seed, steps=steps))
            print(path, flush=True)


if __name__ == "__main__":
    main()
