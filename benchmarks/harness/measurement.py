"""What a measurement declares that trains no methods over seeds: of the platform, a machine, the papers' tables."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.harness.reported import Document, Reported
from paretovid.trainables.provenance import code_version


def no_arguments(_: argparse.ArgumentParser) -> None:
    """For a measurement that asks nothing."""


@dataclass(frozen=True, kw_only=True)
class Measurement(Reported):
    """Repeats stand where a benchmark of a method has seeds: a row each."""

    common = ("code_version", "date", "cores", "load")
    measure: Callable[[argparse.Namespace], Document]
    """Everything that is reported."""
    arguments: Callable[[argparse.ArgumentParser], object] = no_arguments
    """Adds its words to the command line."""

    def document(self, arguments: argparse.Namespace) -> Document:
        """What was measured, with the circumstances; the load is that of the last minute before."""
        circumstances = {
            "code_version": code_version(),
            "date": time.strftime("%Y-%m-%d"),
            "cores": len(os.sched_getaffinity(0)),
            "load": round(os.getloadavg()[0], 1),
        }
        return {**circumstances, **self.measure(arguments)}
