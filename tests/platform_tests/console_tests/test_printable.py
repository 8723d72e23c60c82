"""Names from files cannot act on the terminal that they are printed to."""

from __future__ import annotations

import argparse
import io
import os

import pytest

from paretovid.platform.cli import commands
from paretovid.platform.cli import main as cli
from paretovid.platform.cli.commands import Answer
from paretovid.platform.cli.prediction_text import prediction_text
from paretovid.platform.console.printable import printable, printable_message
from paretovid.platform.console.progress import Progress
from paretovid.platform.console.tables import format_table
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import DataError

EVIL = "a\x1b[2J\r\n\x07\x9b\u202eb\udcff.mp4"
ESCAPED = r"a\x1b[2J\r\n\x07\x9b\u202eb\udcff.mp4"


def test_only_what_controls_a_terminal_is_escaped() -> None:
    assert printable(EVIL) == ESCAPED
    plain = "caf\u00e9 \u65e5\u672c \u0627\u0644 \U0001f468\u200d\U0001f469 a\\b 'c'"
    assert printable(plain) == plain
    assert printable("a\nb\tc\x1b", keep="\n") == "a\nb\\tc\\x1b"


def test_a_message_stays_one_message() -> None:
    assert printable_message("left out: a\nparetovid: all is well\x1b[1A") == (
        "left out: a\n    paretovid: all is well\\x1b[1A"
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool) -> None:
    stream = io.StringIO()
    progress = Progress(1, stream=stream, terminal=terminal)
    progress.say(f"left out: {EVIL}")
    progress.show(f"at {EVIL}")
    own = "\r\x1b[K" if terminal else ""
    first, second, *rest = stream.getvalue().replace(own or "\0", "").split("\n")
    assert first == r"left out: a\x1b[2J\r" and second == r"    \x07\x9b\u202eb\udcff.mp4"
    assert rest[0].startswith("at a\\x1b[2J\\r") and "\x1b" not in "".join(rest) and "\r" not in "".join(rest)


def test_tables_and_predictions() -> None:
    assert format_table(("name",), [[EVIL]]).split("\n") == ["name", ESCAPED]
    label: JsonObject = {"label": "x\x1b[31m", "score": 0.5}
    seen: JsonObject = {
        "path": EVIL,
        "labels": [label],
        "gflops": 1.0,
        "calls": {},
        "steps": ["fine"],
        "notes": ["n\x07"],
    }
    failed: JsonObject = {"path": EVIL, "error": f"{EVIL} is empty"}
    text = prediction_text({"videos": [seen, failed], "notes": []})
    assert "\x1b" not in text and "\x07" not in text and text.count(ESCAPED) == 2


def test_what_commands_print(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(args: argparse.Namespace) -> Answer:
        raise DataError(f"{EVIL} cannot be used", f"Remove {EVIL}.")

    monkeypatch.setattr(commands, "flops", lambda args: Answer(text=f"one\n{EVIL}"))
    assert cli.main(["flops"]) == 0
    monkeypatch.setattr(commands, "flops", fails)
    assert cli.main(["flops"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "one\na\\x1b[2J\\r\n\\x07\\x9b\\u202eb\\udcff.mp4\n"
    assert printed.err.count("\\x1b[2J") == 2 and not {"\x1b", "\r", "\x07"} & set(printed.err)


def test_a_name_that_is_no_text_can_be_printed() -> None:
    assert printable(os.fsdecode(b"caf\xe9.mp4")) == r"caf\udce9.mp4"
