"""Which videos were begun and never finished, or did not come back: an actor's state.

It outlives the workers that die of them.

Imports nothing heavy: a process that starts for it would take seconds from the workers.
"""

from __future__ import annotations

from typing import Any, final


@final
class Attempts:
    """How often each video was begun and not finished."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}
        self._hanging: dict[int, str] = {}

    def begin(self, number: int) -> str:
        """What has not come back of it before (`hanging.py`); then it must not be begun again. "": nothing."""
        if number in self._hanging:
            return self._hanging[number]
        self._begun[number] = self._begun.get(number, 0) + 1
        return ""

    def hangs(self, number: int, what: str) -> None:
        self._hanging[number] = what
        self.end(number)

    def end(self, number: int) -> None:
        self._begun.pop(number, None)

    def failed(self, times: int) -> list[int]:
        """Videos that were begun so often, or more."""
        return [number for number, begun in self._begun.items() if begun >= times]


def start_attempts() -> Any:
    """The handle of a new actor, on this process's node if that can be: it should not go with a worker's."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    remote: Any = ray.remote(Attempts)
    return remote.options(num_cpus=0, scheduling_strategy=here).remote()
