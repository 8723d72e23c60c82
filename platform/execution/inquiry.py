"""Whether the place is away for one node or for all: asked by the driver when a trial has given itself back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, final

from paretovid.platform.execution.searcher import Away, ParetoSearcher
from paretovid.trainables.documents import JsonObject

INQUIRY_SECONDS = 20.0
"""For the answers: a mount whose server is gone lets nobody return."""
Answers: TypeAlias = Mapping[str, str | None]


@final
class Inquiry:
    """Finds out, beside the trials that run, whether a sweep has a node left that it can work on.

    Arguments:
        look: why the trial of a configuration could not work where this is called; None: it could.
        nodes: Ray's ids of the nodes that have room for a trial.
        ask: the answers of these nodes to `look`.
    """

    def __init__(
        self,
        searcher: ParetoSearcher,
        *,
        look: Callable[[JsonObject], str | None],
        nodes: Callable[[], Sequence[str]],
        ask: Callable[[Sequence[str], JsonObject, float], Answers],
        seconds: float = INQUIRY_SECONDS,
    ) -> None:
        self._searcher = searcher
        self._look = look
        self._nodes = nodes
        self._ask = ask
        self._seconds = seconds
        self._asked_for: set[str] = set()
        """Nodes whose fault an inquiry was made for, as long as they are away."""
        self._thread: threading.Thread | None = None

    def poll(self) -> None:
        """Begins an inquiry for a node that is away since the last call, unless one is under way. Cheap."""
        away = {each.fault.node: each for each in self._searcher.away.values()}
        self._asked_for.intersection_update(away)
        if self._thread is not None and self._thread.is_alive():
            return
        for node, each in away.items():
            if node not in self._asked_for:
                self._asked_for.update(away)
                others = [other for other in self._nodes() if other not in away]
                self._thread = threading.Thread(
                    target=self._inquire, args=(each, others), name="inquiry", daemon=True
                )
                self._thread.start()
                return

    def join(self) -> None:
        """Waits for an inquiry that is under way."""
        if self._thread is not None:
            self._thread.join()

    def _inquire(self, away: Away, others: Sequence[str]) -> None:
        fault = away.fault
        here = within(self._seconds, lambda: self._look(away.config))
        if here is not None:
            self._searcher.end(
                f"{fault.reason}, seen from {fault.host} and from the driver's {socket.gethostname()}"
            )
            return
        answers = self._ask(others, away.config, self._seconds) if others else {}
        if all(answer is not None for answer in answers.values()):
            where = fault.host if not answers else f"all {1 + len(answers)} nodes that were asked"
            self._searcher.end(f"{fault.reason}, on {where}")


def within(seconds: float, look: Callable[[], str | None]) -> str | None:
    """What `look` returns, which may never return."""
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(look()), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else f"no answer in {seconds:.0f} s"
