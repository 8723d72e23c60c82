"""What people read of a prediction is what its document says."""

from __future__ import annotations

from typing import Any

import pytest

from paretovid.platform.cli.prediction_text import has_failed, prediction_text

ANSWERED: dict[str, Any] = {
    "path": "a.mp4",
    "error": None,
    "labels": [
        {"label": name, "score": score} for name, score in zip("wxyz", (0.9, 0.05, 0.04, 0.01), strict=True)
    ],
    "instances": [{"label": "w", "start_seconds": 1.0, "end_seconds": 2.5, "score": 0.75}],
    "gflops": 0.125,
    "steps": ["none", "coarse", "fine", "fine"],
    "calls": {"fine@64": 2.0},
    "stopped_by": "cap",
    "notes": ["short"],
}
UNREADABLE = {"path": "b.mp4", "error": "b.mp4: no video"}


def test_an_answer_in_a_few_lines() -> None:
    text = prediction_text({"videos": [ANSWERED], "notes": ["of all"]})
    assert text.splitlines() == [
        "a.mp4: w 0.900, x 0.050, y 0.040",
        "  1.0 to 2.5 s: w 0.750",
        "  0.125 GFLOPs; looked at 2 of 4 steps closely (steps 2, 3)",
        "  calls: fine@64 x 2",
        "  the cap refused at least one read",
        "note: of all",
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"calls": {}}, "calls: none"),
        ({"steps": ["none", "xs", "m", "xs"]}, "of 4 steps, up to xs at 2, m at 1 (steps 2)"),
        ({"steps": ["none", "none"]}, "looked at 0 of 2 steps closely\n"),
        ({"stopped_by": None, "notes": []}, "calls: fine@64 x 2"),
    ],
)
def test_what_differs_from_method_to_method(changed: dict[str, Any], said: str) -> None:
    assert said in prediction_text({"videos": [{**ANSWERED, **changed}], "notes": []}) + "\n"


def test_one_that_cannot_be_read_is_reported_beside_the_others() -> None:
    assert not has_failed({"videos": [ANSWERED], "notes": []})
    document = {"videos": [UNREADABLE, ANSWERED, {"path": "c.mp4", "error": "gone"}], "notes": []}
    lines = prediction_text(document).splitlines()
    assert has_failed(document) and (lines[0], lines[-1]) == ("b.mp4: no video", "c.mp4: gone")
