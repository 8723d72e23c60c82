"""Which point of a front suits a budget or a wish."""

from __future__ import annotations

from paretovid.platform.fronts.front import Front, FrontPoint, _best_first, _cheapest, _within
from paretovid.platform.storage.trial_names import confirmed_trial
from paretovid.trainables.errors import UnknownNameError, UsageError


def choose(
    front: Front,
    *,
    point: str | None = None,
    max_gflops: float | None = None,
    min_map: float | None = None,
    at_knee: bool = False,
) -> FrontPoint:
    """The operating point that a user means, by exactly one of four ways; all decide on validation.

    * `point`: its id (a baseline's is allowed). Raises `UnknownNameError` that lists near ones.
    * `max_gflops`: the best quality that costs at most this; of equals the cheaper.
    * `min_map`: the cheapest whose objective reaches this (fraction); of equals the better.
    * `at_knee`: the front's bend.
    """
    given = [point is not None, max_gflops is not None, min_map is not None, at_knee]
    if sum(given) != 1:
        raise UsageError(
            f"{sum(given)} ways to choose a point were given, but exactly one is needed",
            "Give one of --point ID, --max-gflops X, --min-map Y, --knee.",
        )
    if point is not None:
        return _by_id(front, point)
    if at_knee:
        return next(p for p in front.points if (p.trial.sweep, p.id) == front.knee_id)
    fitting = _within(list(front.points), max_gflops, min_map)
    return min(fitting, key=_best_first if max_gflops is not None else _cheapest)


def _by_id(front: Front, wanted: str) -> FrontPoint:
    everything = [*front.points, *front.baselines]
    sweep, _, name = wanted.rpartition("/")
    if original := confirmed_trial(name):
        chosen = f"{original}-p{name.rpartition('-p')[2]}"
        raise UsageError(
            f"{name} is of a training that confirms {original}, which is no point of the search",
            f"The point that it confirms: {chosen}.",
        )
    found = [p for p in everything if p.id == name and sweep in ("", p.trial.sweep)]
    if len({(p.trial.sweep, p.id) for p in found}) > 1:
        raise UsageError(
            f"{len(found)} sweeps have a point {wanted!r}",
            f"Say which: {', '.join(f'{p.trial.sweep}/{p.id}' for p in found)}.",
        )
    if found:
        return found[0]
    for stopped_in, stops in front.stopped.items():
        for each in stops.trials:
            if each.trial == name.partition("-")[0] and sweep in ("", stopped_in):
                raise UsageError(
                    f"{each} of sweep {stopped_in}: it has no operating point, as it was not trained to its end",
                    "Take a point of another trial. A sweep with search.stopping=none and another name= trains all of "
                    "them; neither resume nor extend goes on with this one.",
                )
    near = sorted((p.id for p in everything), key=lambda known: (-_common_start(known, name), known))
    shown = ", ".join(list(dict.fromkeys(near))[:5])
    front_ids = ", ".join(p.id for p in front.front[:8])
    raise UnknownNameError(
        f"no operating point is called {wanted!r}", f"Near it: {shown}. On the front: {front_ids}."
    )


def _common_start(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
