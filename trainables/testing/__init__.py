"""For tests of methods, backbones and readers: synthetic features, and the suites that plug-ins' tests inherit."""

from paretovid.trainables.testing.contracts import FamilyContract, MethodContract, ReaderContract
from paretovid.trainables.testing.synthetic import (
    COMPONENTS,
    MACS,
    NUM_CLASSES,
    SOURCE_INFO,
    WIDTHS,
    padded_by,
    reloaded,
    run_cached,
    run_one_by_one,
    synthetic_costs,
    synthetic_method,
    synthetic_metrics,
    synthetic_result,
    synthetic_split,
    train_briefly,
)

__all__ = [
    "COMPONENTS",
    "MACS",
    "NUM_CLASSES",
    "SOURCE_INFO",
    "WIDTHS",
    "FamilyContract",
    "MethodContract",
    "ReaderContract",
    "padded_by",
    "reloaded",
    "run_cached",
    "run_one_by_one",
    "synthetic_costs",
    "synthetic_method",
    "synthetic_metrics",
    "synthetic_result",
    "synthetic_split",
    "train_briefly",
]
