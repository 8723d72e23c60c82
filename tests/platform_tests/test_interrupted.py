"""A signal at any stage ends a command in order: exit status, how to resume, the sweep's state."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest
from tests.conftest import Clusters
from tests.platform_tests.conftest import SMALL_DATA, copied

from paretovid.platform.cli import commands
from paretovid.platform.cli import main as cli
from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.console.progress import Progress
from paretovid.platform.execution import stopping
from paretovid.platform.execution.launcher import LaunchSummary
from paretovid.platform.execution.stopping import StopSwitch, SweepStopped, ended_in_order
from paretovid.platform.preparation import datasets
from paretovid.platform.preparation import prepare as preparing
from paretovid.platform.preparation.interruptible_trainer import interruptible
from paretovid.platform.preparation.prepare import Prepared
from paretovid.platform.records.sweep import known_record
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps import run as running
from paretovid.platform.sweeps import sweep as sweeping
from paretovid.trainables.errors import DataError

LONG = [*(word for word in SMALL_DATA if "effort" not in word), "backbones.training.effort=500"]


def quiet(_: str) -> None:
    """Says nothing."""


@pytest.mark.parametrize(
    "raised", [KeyboardInterrupt(), SystemExit(0), RuntimeError("The actor died"), DataError("no shard", "")]
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whatever_an_interrupted_library_raises_is_reported_as_the_signal(
    raised: BaseException, number: signal.Signals, status: int
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SweepStopped) as caught, ended_in_order(StopSwitch(), "Resume: so", quiet):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except SweepStopped:
            raise raised from None  # as `ray.get` and Ray Train do
    assert (caught.value.exit_status, caught.value.hint) == (status, "Resume: so")
    assert caught.value.reason.startswith("interrupted by ")
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("raised", [SystemExit(3), DataError("no shard", "")])
def test_without_a_signal_an_error_stays_what_it_is(raised: BaseException) -> None:
    with pytest.raises(type(raised)), ended_in_order(StopSwitch(), "", quiet):
        raise raised


def test_an_error_after_another_driver_has_taken_the_sweep_stays_what_it_is() -> None:
    switch = StopSwitch()
    with pytest.raises(DataError), ended_in_order(switch, "", quiet):
        switch.lease_lost("taken over")
        raise DataError("gone", "")


def test_signals_that_ray_has_taken_are_taken_again() -> None:
    with pytest.raises(SweepStopped), ended_in_order(StopSwitch(), "", quiet):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as connecting does
        stopping.take_signals_again()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_a_training_of_backbones_leaves_ctrl_c_to_us() -> None:
    from ray.train.torch import TorchTrainer

    before = signal.getsignal(signal.SIGINT)
    interruptible(TorchTrainer)(lambda: None)._register_sigint_handler(None)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prepare", "read_front"])
@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(0), RuntimeError("The actor died")])
def test_a_sweep_that_is_interrupted_at_any_stage_is_called_so(
    stage: str, raised: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> NoReturn:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except SweepStopped:
            raise raised from None
        raise AssertionError

    if stage == "read_front":
        monkeypatch.setattr(running, stage, interrupted)
        summary = LaunchSummary(succeeded=1, failed=0, reasons={}, is_out_of_time=False)
        monkeypatch.setattr(running.SweepRun, "_search", lambda *_: summary)
    backend = sweeping.Backend(
        cluster=lambda _: contextlib.nullcontext(),
        preparation=interrupted if stage == "prepare" else lambda *_: Prepared.__new__(Prepared),
    )
    config = load_sweep_config([f"home={tmp_path}", "name=s"])
    with pytest.raises(SweepStopped) as caught:
        sweeping.run_sweep(config, Progress(5), backend=backend)
    assert caught.value.exit_status == 143 and "resume s" in caught.value.hint
    record = known_record(Home(tmp_path).sweep("s"))
    assert (record.state, record.error) == ("interrupted", "interrupted by SIGTERM")


@pytest.mark.parametrize("typed", [["data", "make"], ["extract"]])
def test_the_commands_before_a_sweep_say_how_to_resume(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> NoReturn:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError

    monkeypatch.setattr(datasets, "make_data", interrupted)
    monkeypatch.setattr(preparing, "make_data", interrupted)
    assert cli.main([*typed, f"home={tmp_path}"]) == 143
    output = capsys.readouterr().err
    assert "interrupted by SIGTERM" in output and commands._SAME_COMMAND in output


BACKBONES_TRAIN = re.compile(r"\] backbones +\d+/100 ")


def _interrupt(command: list[str], home: Path, number: signal.Signals) -> tuple[int, str]:
    """Exit status and stderr of a command that gets a signal while it trains backbones."""
    output = home / "stderr.txt"
    with output.open("w") as stderr:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("paretovid")), *command, f"home={home}"],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": ""},
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 240
        while not BACKBONES_TRAIN.search(output.read_text()):
            assert process.poll() is None and time.monotonic() < end, output.read_text()
            time.sleep(0.1)
        process.send_signal(number)
        process.wait(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    return process.returncode, output.read_text()


def _interrupt_here(command: list[str], home: Path, number: signal.Signals) -> tuple[int, str]:
    """The same in this process, on the cluster that tests share."""
    output, over = io.StringIO(), threading.Event()

    def send() -> None:
        while not BACKBONES_TRAIN.search(output.getvalue()):
            if over.wait(0.1):
                return
        os.kill(os.getpid(), number)

    sending = threading.Thread(target=send)
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(io.StringIO()):
        sending.start()
        try:
            status = cli.main([*command, f"home={home}"])
        finally:
            over.set()
            sending.join()
    return status, output.getvalue()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_signal_while_backbones_train_ends_in_order(
    prepared_home: Path, tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(prepared_home, tmp_path, "data")
    status, err = _interrupt(["sweep", "name=s", *LONG], tmp_path, signal.SIGINT)
    assert status == 130, err
    assert "interrupted by ctrl-C" in err and re.search(r"hint: Resume: .*resume s", err), err
    assert "Traceback" not in err
    assert known_record(Home(tmp_path).sweep("s")).state == "interrupted"
    assert not list((tmp_path / "backbones").glob("*/.progress-*.json")), "what reports the progress is gone"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    clusters.shared()
    status, err = _interrupt_here(["extract", *LONG], tmp_path, signal.SIGTERM)
    assert status == 143, err
    assert "interrupted by SIGTERM" in err and "the same command resumes" in err
    clusters.end_unless_idle()
