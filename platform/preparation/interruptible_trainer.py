"""Ray Train's trainer, but for how it takes ctrl-C: the one place that overrides a private method of Ray Train."""

from __future__ import annotations

import contextlib
from typing import Any

_ABORT_SECONDS = 10.0
"""What the workers may take to end when a training is interrupted."""


def interruptible(trainer: type[Any]) -> type[Any]:
    """A trainer that leaves SIGINT to us, with a method `abort` that ends its workers.

    Ray Train's `fit` takes it for good: the first ctrl-C ends the process through `SystemExit`, with status 1 and no
    word, and later stages never hear of one.
    """
    assert hasattr(trainer, "_register_sigint_handler"), (
        "Ray Train takes SIGINT in another way than this knows"
    )

    class Interruptible(trainer):  # type: ignore[misc]
        _controller: Any = None

        def _register_sigint_handler(self, controller: Any) -> None:
            self._controller = controller

        def abort(self) -> None:
            """Ends the workers of the run that is under way; a cluster that is already gone has ended them."""
            import ray

            if self._controller is not None:
                with contextlib.suppress(Exception):
                    ray.get(self._controller.abort.remote(), timeout=_ABORT_SECONDS)

    return Interruptible
