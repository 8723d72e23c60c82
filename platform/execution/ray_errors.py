"""What Ray's errors mean for a trial."""

from __future__ import annotations

import re
from collections.abc import Mapping

from paretovid.trainables.errors import ParetovidError

NODE_LOST = "its node was lost"


def is_node_loss(text: str) -> bool:
    """Whether Ray says that a process is gone because its node is."""
    return bool(
        re.search(r"node (has died|is dead|was (terminated|preempted))|node_death|NodeDied|preempted", text)
    )


def cause_of_train_failure(error: Exception) -> Exception:
    """What a worker raised, out of what Train wraps it in."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    raised = [getattr(each, "cause", None) or each for each in failures.values()]
    ours = [each for each in raised if isinstance(each, ParetovidError)]
    return (ours or raised or [error])[0]
