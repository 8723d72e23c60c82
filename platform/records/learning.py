"""`learning.json`: what a training has measured of itself so far, which its process writes while it trains."""

from __future__ import annotations

import json
import math

from paretovid.platform.storage.home import TrialPaths
from paretovid.trainables.context import Learning, Rung
from paretovid.trainables.documents import Fields, JsonValue

VERSION = 1
_HINT = "Remove the file: the trial writes it again while it trains."


def learning_json(learning: Learning) -> dict[str, JsonValue]:
    """The content of the file, numbers that are not finite left out; `learning_of` reads it."""
    return {
        "version": VERSION,
        "epochs": learning.epochs,
        "history": [
            {name: value for name, value in parts.items() if math.isfinite(value)}
            for parts in learning.history
        ],
        "rungs": [
            {
                "share": rung.share,
                "epoch": rung.epoch,
                "points": [list(pair) for pair in rung.points if all(map(math.isfinite, pair))],
            }
            for rung in learning.rungs
        ],
    }


def learning_of(data: object, where: str) -> Learning:
    """What `learning_json` gave. Raises `DataError` or `NonFiniteError` for what cannot be read; `where`: the file."""
    fields = Fields(data, where, _HINT)
    fields.check_version(VERSION)
    return Learning(
        epochs=fields.count("epochs"),
        history=tuple(
            {name: parts.number(name) for name in parts.names()} for parts in fields.list_of_fields("history")
        ),
        rungs=tuple(
            Rung(share=rung.number("share"), epoch=rung.count("epoch"), points=rung.pairs("points"))
            for rung in fields.list_of_fields("rungs")
        ),
    )


def read_learning(trial: TrialPaths) -> Learning | None:
    """What a trial has measured of itself; None where there is no file, or half of one.

    Raises `DataError` for a whole file that cannot be understood, such as one of a later version.
    """
    found = trial.store.read_document(trial.learning)
    return None if found is None else learning_of(found, str(trial.learning))


def write_learning(trial: TrialPaths, learning: Learning) -> None:
    """Replaces `learning.json`."""
    trial.store.write_text(trial.learning, json.dumps(learning_json(learning), allow_nan=False))
