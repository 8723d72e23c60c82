"""A trial whose place is away: it waits for it, then gives itself back, and keeps its room until the place is well.

Why the process stays: a node that has lost a mount would be the quickest of all to take the next trial. While the
process holds the trial's room there, Ray has nothing to give on that node; no list of nodes must be kept in step.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from paretovid.infra.placement import TrialResources
from paretovid.platform.execution.outcome import AWAY, EnvironmentFault, Failed, outcome_text
from paretovid.platform.storage.faults import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    infrastructure_fault,
)
from paretovid.platform.storage.home import HomeReference, TrialPaths
from paretovid.trainables.context import TrialStopped
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import InfrastructureError

_T = TypeVar("_T")
Probe = Callable[[JsonObject], None]
"""Reads what the trial of a configuration would read, and raises what keeps it from that."""
STORAGE_WAIT_SECONDS = 30.0
RECHECK_SECONDS = 30.0
"""Between two looks of a node that takes no trials."""
_FIRST_RECHECK_SECONDS = 2.0
_POLL_SECONDS = 1.0
_CHECK_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """What a trial does when its place is away."""

    seconds: float = STORAGE_WAIT_SECONDS
    """It tries again for so long, since it last got on."""
    probe: Probe | None = None
    """Whether the place is well, beside the home, which is always tried."""
    recheck_seconds: float = RECHECK_SECONDS


@final
class SeenOnNode(InfrastructureError):
    """A fault of the place that a worker of a group has seen on its node."""

    def __init__(self, message: str, hint: str = "", node: str = "", host: str = "") -> None:
        super().__init__(message, hint)
        self.node = node
        self.host = host

    def __reduce__(self) -> Any:
        return SeenOnNode, (self.message, self.hint, self.node, self.host)

    @classmethod
    def here(cls, reason: str) -> SeenOnNode:
        """Of this process's node."""
        return cls(reason, node=_this_node(), host=socket.gethostname())


@final
class Place:
    """Where one trial runs: its home, what its configuration names of features and data, and this node."""

    def __init__(
        self, trial: TrialPaths, config: JsonObject, waiting: Waiting, cache: str | None = None
    ) -> None:
        self._trial = trial
        self._config = dict(config)
        self._waiting = waiting
        self._cache = cache
        features = config.get("features")
        named = [*(features.values() if isinstance(features, Mapping) else ()), config.get("dataset")]
        self.paths: tuple[Path | str, ...] = (
            trial.sweep.home_root,
            *(str(each) for each in named if each),
        )

    def patiently(
        self,
        attempt: Callable[[], _T],
        *,
        should_end: Callable[[], bool],
        reports: Callable[[], int] = lambda: 0,
    ) -> _T:
        """What `attempt` gives, begun again for as long as the trial waits while the place is away.

        Arguments:
            should_end: asked once a second, with a heartbeat: `TrialStopped` is raised at once.
            reports: how often the trial has got on; the time begins anew when it has.
        """
        until, seen, pause = -1.0, -1, FIRST_PAUSE_SECONDS
        while True:
            try:
                return attempt()
            except TrialStopped:
                raise
            except Exception as error:
                fault = infrastructure_fault(error, self.paths)
                if fault is None or fault.is_full:
                    raise
                if reports() > seen:
                    seen, until = reports(), time.monotonic() + self._waiting.seconds
                    pause = FIRST_PAUSE_SECONDS
                if time.monotonic() + pause > until:
                    raise
            _pause(pause, should_end)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def verdict(self, error: Exception) -> EnvironmentFault | Failed | None:
        """What an error comes to that waiting has not helped against; None if it is not the place's.

        A place that is well after all is no excuse: then the start has failed, and counts.
        """
        fault = infrastructure_fault(error, self.paths)
        if fault is None:
            return None
        if fault.is_full:
            return EnvironmentFault(reason=fault.reason)
        seen = error if isinstance(error, SeenOnNode) else SeenOnNode.here(fault.reason)
        reason = self.why_away(seen.node)
        if reason is None:
            return Failed(reason=fault.reason, retry=True)
        return EnvironmentFault(reason=fault.reason, node=seen.node, host=seen.host)

    def check(self) -> None:
        """Raises what is wrong with the place, seen from this process."""
        sweep, store = self._trial.sweep, self._trial.store
        mark = sweep.trials / f".probe-{uuid.uuid4().hex[:8]}"
        store.write_text(mark, "?")
        with contextlib.suppress(OSError):
            store.remove(mark)
        if self._waiting.probe is not None:
            self._waiting.probe(self._config)

    def why_away(self, node: str) -> str | None:
        """Why the place is away, seen from a node; None if it is well."""
        if node == _this_node():
            return self.why_away_here()
        home, folder = self._trial.sweep.reference(self._cache), self._trial.sweep.folder.absolute()
        config, probe = self._config, self._waiting.probe
        ask = functools.partial(why_away_from_here, home, folder, config, probe)
        return answers_of([node], ask, _CHECK_SECONDS)[node]

    def why_away_here(self) -> str | None:
        """As `why_away`, seen from this process."""
        try:
            self.check()
        except Exception as error:  # whatever a probe raises
            fault = infrastructure_fault(error, self.paths)
            text = str(error).strip().splitlines() or [type(error).__name__]
            return fault.reason if fault is not None else text[0]
        return None

    def stay_until_back(self, fault: EnvironmentFault, wanted: TrialResources) -> None:
        """Gives the trial back, and returns when the place is well again on the node that has seen the fault.

        The driver ends the process if it should not wait for that any longer.
        """
        here = fault.node == _this_node()
        with contextlib.nullcontext() if here and not wanted.is_nested else _holding(fault.node, wanted):
            tune.report({AWAY: outcome_text(fault)})
            pause = _FIRST_RECHECK_SECONDS
            while True:
                time.sleep(min(pause, self._waiting.recheck_seconds))
                if self.why_away(fault.node) is None:
                    return
                pause *= 2


def why_away_from_here(
    home: HomeReference, sweep: Path, config: JsonObject, probe: Probe | None
) -> str | None:
    """Why a trial could not work on this node; None if it could. `sweep`: the driver's folder of it."""
    try:
        paths = trial_paths(home, sweep, config)
    except OSError as error:
        return str(error)
    return Place(paths, config, Waiting(probe=probe)).why_away_here()


def trial_paths(home: HomeReference, sweep: Path, config: JsonObject) -> TrialPaths:
    """Where a trial keeps its checkpoints and its result, on this node. `sweep`: the driver's folder of it."""
    return home.sweep(sweep).trial(str(config["trial"]))


def answers_of(nodes: Sequence[str], ask: Callable[[], str | None], seconds: float) -> dict[str, str | None]:
    """What `ask` returns on each of these nodes, by Ray's id. One that does not answer in time is away: a mount whose
    server is gone lets nobody return."""
    make: Any = ray.remote
    remote = make(num_cpus=0, max_retries=0)(lambda: ask())
    asked = {
        node: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    }
    until = time.monotonic() + seconds
    answers: dict[str, str | None] = {}
    for node, reference in asked.items():
        try:
            answers[node] = ray.get(reference, timeout=max(0.1, until - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            answers[node] = f"no answer in {seconds:.0f} s"
        except Exception as error:  # a node that is gone, a worker that cannot start
            answers[node] = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return answers


@contextlib.contextmanager
def _holding(node: str, wanted: TrialResources) -> Iterator[None]:
    """Keeps the room of a trial's workers on another node: each takes it as soon as it is free."""

    class Holder:
        pass

    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    needs = wanted.per_worker()
    resources = {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU")}
    remote: Any = ray.remote(Holder)
    holders = [
        remote.options(
            num_cpus=needs.get("CPU", 0),
            num_gpus=needs.get("GPU", 0),
            resources=resources,
            scheduling_strategy=strategy,
        ).remote()
        for _ in range(wanted.workers)
    ]
    try:
        yield
    finally:
        for holder in holders:
            ray.kill(holder)


def _this_node() -> str:
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"


def _pause(seconds: float, should_end: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if should_end():
            raise TrialStopped
        time.sleep(min(_POLL_SECONDS, left))
