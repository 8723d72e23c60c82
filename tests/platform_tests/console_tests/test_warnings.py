"""What a user is told beside a command's answer."""

from __future__ import annotations

import pytest

from paretovid.platform.console.warnings import say_on_stderr


def test_a_warning_cannot_pass_for_another_line_or_hold_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    say_on_stderr("damaged: /a\x1b[2J\nparetovid: all is well\nhttps://me:hunter2@host/x")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "  damaged: /a\\x1b[2J\n    paretovid: all is well\n    https://me@host/x\n"
