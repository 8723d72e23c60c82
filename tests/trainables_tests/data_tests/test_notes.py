from __future__ import annotations

from paretovid.trainables.data.notes import grouped_notes


def test_a_line_for_each_kind_of_note() -> None:
    notes = [
        ("a.mp4", "damaged near 1.5 s: silence"),
        ("b.mp4", "mirrored"),
        ("c.mp4", "damaged near 22 s: silence"),
    ]
    assert grouped_notes(notes) == [
        "2 videos, the first a.mp4: damaged near 1.5 s: silence",
        "b.mp4: mirrored",
    ]
    assert grouped_notes([]) == []
