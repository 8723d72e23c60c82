"""Progress lines: what a person and a log file see."""

import io
import threading

import pytest

from paretovid.platform.console.progress import Progress, format_seconds


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def make_progress(*, terminal: bool, total_stages: int = 3) -> tuple[Progress, io.StringIO, Clock]:
    """With a clock that only the test moves, so that the ticking thread never writes."""
    stream, clock = io.StringIO(), Clock()
    progress = Progress(total_stages, stream=stream, terminal=terminal, interval_seconds=10, clock=clock)
    return progress, stream, clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (3725, "1 h 02 min"),
    ],
)
def test_seconds_are_written_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_line_says_how_far_and_how_long_still() -> None:
    progress, _, clock = make_progress(terminal=False)
    with progress.stage("training backbones", total=40, unit="epochs") as stage:
        assert stage.describe() == "[1/3] training backbones  0/40 epochs (0 %), 0.0 s so far"
        clock.seconds = 20
        stage.advance(10, note="loss 0.31")
        assert stage.describe() == (
            "[1/3] training backbones  10/40 epochs (25 %), 20 s so far, about 1 min 00 s left, loss 0.31"
        )


def test_without_a_total_there_is_no_estimate() -> None:
    progress, _, clock = make_progress(terminal=False)
    with progress.stage("searching", unit="trials") as stage:
        clock.seconds = 20
        assert stage.describe() == "[1/3] searching  20 s so far"
        stage.advance(4)
        assert stage.describe() == "[1/3] searching  4 trials, 20 s so far"


def test_a_log_gets_a_line_per_interval_and_one_at_the_end() -> None:
    progress, stream, clock = make_progress(terminal=False)
    with progress.stage("extracting", total=100, unit="videos") as stage:
        for _ in range(100):
            clock.seconds += 0.25
            stage.advance()
    assert stream.getvalue().splitlines() == [
        "[1/3] extracting  40/100 videos (40 %), 10 s so far, about 15 s left",
        "[1/3] extracting  80/100 videos (80 %), 20 s so far, about 5.0 s left",
        "[1/3] extracting: 100 videos in 25 s",
    ]


def test_a_terminal_sees_one_line_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    progress, stream, clock = make_progress(terminal=True)
    with progress.stage("extracting", total=2, unit="videos") as stage:
        clock.seconds = 10
        stage.advance()
        assert "\n" not in stream.getvalue()
        rewritten = stream.getvalue().split("\r\x1b[K")
        assert rewritten[-1] == "[1/3] extracting  1/2 videos "  # cut one short of the 30 columns
        progress.say("a video cannot be read")
    assert stream.getvalue().endswith("\r\x1b[Ka video cannot be read\n[1/3] extracting: 1 videos in 10 s\n")


def test_closing_lines_say_what_was_made_or_reused() -> None:
    progress, stream, clock = make_progress(terminal=False)
    with progress.stage("making videos") as stage:
        clock.seconds = 31
        stage.done("made 700 videos")
    with progress.stage("training backbones") as stage:
        stage.reused("4 backbones")
    with pytest.raises(RuntimeError), progress.stage("searching"):
        clock.seconds = 33
        raise RuntimeError
    with progress.stage("one more than expected"):
        pass
    assert stream.getvalue().splitlines() == [
        "[1/3] making videos: made 700 videos in 31 s",
        "[2/3] training backbones: reused 4 backbones",
        "[3/3] searching: stopped after 2.0 s",
        "[4/4] one more than expected: done in 0.0 s",
    ]


def test_a_stage_that_waits_still_shows_that_time_passes() -> None:
    written = threading.Event()

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.set()
            return super().write(text)

    stream = Stream()
    progress = Progress(1, stream=stream, terminal=False, interval_seconds=0.01)
    with progress.stage("starting Ray"):
        assert written.wait(5)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("[1/1] starting Ray  0.")
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_silent_progress_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress.silent().stage("anything", total=1) as stage:
        stage.advance()
    assert capfd.readouterr() == ("", "")
