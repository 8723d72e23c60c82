"""What `paretovid predict` prints for people, from the document that `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence

from paretovid.platform.console.printable import printable
from paretovid.trainables.documents import Fields, JsonObject

_LABELS_SHOWN, _INSTANCES_SHOWN = 3, 10  # of a video; --json prints all
_ENDS = {
    "end": "read to its end",
    "method": "the method had seen enough before the end",
    "cap": "the cap refused at least one read",
}
"""What `stopped_by` says to people."""


def prediction_text(document: JsonObject) -> str:
    """A few lines for each video, then the notes on all of them; those on single ones go to standard error."""
    fields = Fields(document, "a prediction", "")
    blocks = [video_text(video) for video in fields.list_of_fields("videos")]
    return "\n".join([*blocks, *(f"note: {note}" for note in fields.texts("notes", ()))])


def warning_lines(document: JsonObject) -> list[str]:
    """A line for each thing that was not as expected in a video."""
    warnings = Fields(document, "a prediction", "").list_of_fields("warnings", ())
    return [printable(f"note: {warning.text('file')}: {warning.text('reason')}") for warning in warnings]


def has_failed(document: JsonObject) -> bool:
    """Whether a video could not be read."""
    videos = Fields(document, "a prediction", "").list_of_fields("videos")
    return any(video.text("error", "") for video in videos)


def video_text(video: Fields) -> str:
    """What was found in a video, what it cost and what was read of it; or why it could not be read."""
    path = printable(video.text("path"))
    if error := printable(video.text("error", "")):
        return error if path in error else f"{path}: {error}"  # most errors begin with the file's name
    labels = ", ".join(
        f"{printable(entry.text('label'))} {entry.number('score'):.3f}"
        for entry in video.list_of_fields("labels")[:_LABELS_SHOWN]
    )
    calls = ", ".join(f"{name} x {count:g}" for name, count in video.number_by_name("calls").items())
    found = "".join(
        f"\n  {each.number('start_seconds'):.1f} to {each.number('end_seconds'):.1f} s: "
        f"{printable(each.text('label'))} {each.number('score'):.3f}"
        for each in video.list_of_fields("instances", ())[:_INSTANCES_SHOWN]
    )
    reads = _reads_text(video.texts("steps"))
    text = (
        f"{path}: {labels}{found}\n  {video.number('gflops'):.4g} GFLOPs; {reads}\n  calls: {calls or 'none'}"
    )
    if stopped_by := video.text("stopped_by", ""):
        text += f"\n  {_ENDS[stopped_by]}"
    return text


def _reads_text(steps: Sequence[str]) -> str:
    """How many steps were looked at how closely, and which, from a word per step."""
    at: dict[str, list[int]] = {}
    for step, word in enumerate(steps):
        at.setdefault(word, []).append(step)

    def which(word: str) -> str:
        return f" (steps {', '.join(map(str, at[word]))})"

    if at.keys() <= {"none", "coarse", "fine"}:
        closely = len(at.get("fine", []))
        return f"looked at {closely} of {len(steps)} steps closely" + (which("fine") if closely else "")
    at.pop("none", None)
    most = max(at, key=lambda word: len(at[word]))
    counts = [f"{word} at {len(at[word])}" + ("" if word == most else which(word)) for word in at]
    return f"of {len(steps)} steps, up to {', '.join(counts)}"
