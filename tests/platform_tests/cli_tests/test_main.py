"""The command line: what it accepts, what it prints where, and its exit status."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretovid.infra.nodes import NodeInfo, own_versions
from paretovid.infra.ray_cluster import Cluster
from paretovid.platform.cli import commands, doctor
from paretovid.platform.cli import main as cli
from paretovid.platform.cli.commands import Answer
from paretovid.platform.console.tables import format_table
from paretovid.platform.console.warnings import say_on_stderr
from paretovid.platform.execution.cluster import problems_of
from paretovid.platform.registry import prediction, promotion
from paretovid.platform.storage.home import Home
from paretovid.trainables.errors import DataError, UsageError

HEAVY = ("av", "hydra", "matplotlib", "mlflow", "numpy", "omegaconf", "optuna", "ray", "torch", "torchvision")
# Frozen on purpose: what can be typed is a promise to users. Change it with the documents.
COMMANDS = [
    "data",
    "extract",
    "sweep",
    "resume",
    "extend",
    "confirm",
    "replay",
    "sweeps",
    "front",
    "promote",
    "rollback",
    "models",
    "predict",
    "flops",
    "relocate",
    "doctor",
]
PROMOTE = ["promote", "s", "--as", "digits"]

Run = Callable[[argparse.Namespace], Answer]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Run], None]:
    """Puts another function in the place of a command's own."""

    def put(name: str, run: Run) -> None:
        monkeypatch.setattr(commands, name, run)

    return put


def raising(error: BaseException) -> Run:
    def run(_: argparse.Namespace) -> Answer:
        raise error

    return run


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["data", "make"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys\n"
        "from paretovid.platform.cli.main import main\n"
        "try: main([*sys.argv[1:], '--help'])\n"
        f"finally: print('heavy:', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
    )
    assert "usage: paretovid" in answer.stdout
    assert answer.stdout.splitlines()[-1] == "heavy: []"


def test_the_commands_are_those_that_the_documents_promise(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(["--help"])
    assert leaving.value.code == 0
    listed = re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, flags=re.MULTILINE)
    assert listed == COMMANDS


def test_the_console_script_is_installed_and_says_its_version() -> None:
    script = Path(sys.executable).parent / "paretovid"
    answer = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"paretovid \d+\.\d+\.\d+\S*\n", answer.stdout)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ([], "required: COMMAND"),
        (["swep"], "invalid choice: 'swep'"),
        (["sweep", "--dryrun"], "unknown argument: --dryrun"),
        (["sweep", "--dry"], "unknown argument: --dry"),
        (["sweep", "lite_eval"], "not an override: 'lite_eval'"),
        (["sweep", "=3"], "not an override: '=3'"),
        (["sweep", "--json"], "unknown argument: --json"),
        (["sweeps", "search.trials=3"], "the name of a sweep is expected, not 'search.trials=3'"),
        (["resume"], "required: SWEEP"),
        (["resume", "home=/x"], "required: SWEEP"),
        (["extend", "s"], "required: +N"),
        (["extend", "s", "+0"], "a number of trials is expected, for example +8, not '+0'"),
        (["extend", "s", "-3"], "for example +8, not '-3'"),
        (["sweeps", "seed=x"], "seed='x'"),
        (["front"], "required: SWEEP"),
        (["front", "s", "--split", "train"], "invalid choice: 'train'"),
        (["front", "s", "--max-gflops", "nan"], "a finite number is expected, not 'nan'"),
        (["front", "s", "--max-gflops", "0"], "more than 0 is expected, not '0'"),
        (["front", "s", "--max-gflops", "cheap"], "a finite number is expected, not 'cheap'"),
        (["front", "s", "--min-map", "85"], "mAP is a fraction between 0 and 1, not '85'"),
        (PROMOTE, "one of the arguments --point --max-gflops --min-map --knee is required"),
        ([*PROMOTE, "--knee", "--point", "p"], "not allowed with argument"),
        (["promote", "s", "--knee"], "required: --as"),
        (["rollback", "digits"], "required: --alias"),
        (["predict", "m"], "required: VIDEO"),
    ],
)
def test_wrong_use_is_reported_with_a_hint(typed: list[str], shown: str, capsys: Capture) -> None:
    assert cli.main(typed) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert shown in err
    assert "\n  hint: " in err
    assert "Traceback" not in err


def test_words_may_stand_anywhere() -> None:
    args = cli.parse(["sweep", "method=lite_eval", "--dry-run", "home=/x", "~search.hours", "seed=3"])
    assert args.overrides == ["method=lite_eval", "~search.hours", "home=/x", "seed=3"]
    assert (args.dry_run, args.home, args.seed) == (True, "/x", 3)
    args = cli.parse(["predict", "home=/x", "m", "a.mp4", "--json", "b=c.mp4", "--max-gflops", "2"])
    assert (args.model, args.videos, args.home) == ("m", ["a.mp4", "b=c.mp4"], "/x")
    assert (args.json, args.max_gflops) == (True, 2.0)
    assert cli.parse(["front", "one", "--json", "two"]).sweeps == ["one", "two"]
    assert cli.parse(["models"]).name is None
    args = cli.parse(["extend", "s", "+8", "cluster.cpus=1", "--take-over", "home=/x"])
    assert (args.sweep, args.more, args.take_over) == ("s", 8, True)
    assert (args.overrides, args.home) == (["cluster.cpus=1", "home=/x"], "/x")


@pytest.mark.parametrize("typed", [["--debug", "models"], ["models", "--debug"]])
def test_debug_may_stand_before_and_after_the_command(typed: list[str]) -> None:
    assert cli.parse(typed).debug


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (UsageError("odd", "do this"), 2, "paretovid: odd\n  hint: do this\n"),
        (DataError("damaged", "repair it"), 1, "paretovid: damaged\n  hint: repair it\n"),
        (KeyboardInterrupt(), 130, "paretovid: interrupted\n  hint: What was finished is kept"),
        (
            ZeroDivisionError("by zero"),
            1,
            "paretovid: ZeroDivisionError: by zero\n  hint: This was not foreseen",
        ),
        (
            ModuleNotFoundError("No", name="ray.tune"),
            1,
            "needs ray.tune, which is not installed\n  hint: Install",
        ),
        (ModuleNotFoundError("No", name="our_own"), 1, "paretovid: ModuleNotFoundError"),
    ],
)
def test_failures_are_one_message_and_a_status(
    error: BaseException, status: int, shown: str, replace: Callable[[str, Run], None], capsys: Capture
) -> None:
    replace("models", raising(error))
    assert cli.main(["models"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert shown in err
    assert "Traceback" not in err
    assert cli.main(["models", "--debug"]) == status
    out, err = capsys.readouterr()
    assert shown in err
    assert "Traceback" in err


def test_commands_in_hints_find_the_home(replace: Callable[[str, Run], None], capsys: Capture) -> None:
    replace("models", raising(DataError("old", "Run `paretovid extract data=x`.")))
    assert cli.main(["models", "home=/a b"]) == 1
    assert "hint: Run `paretovid extract data=x 'home=/a b'`.\n" in capsys.readouterr().err


def test_json_is_the_only_thing_on_stdout(replace: Callable[[str, Run], None], capfd: Capture) -> None:
    document = {"models": [{"name": "digits", "gflops": 0.25}]}

    def run(_: argparse.Namespace) -> Answer:
        print("a library that prints")
        subprocess.run(["echo", "a child that prints"], check=True)
        return Answer(text="for people", document=document, exit_status=1)

    replace("models", run)
    assert cli.main(["models", "--json"]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out) == {**document, "warnings": []}
    assert "a library that prints" in err
    assert "a child that prints" in err
    assert cli.main(["models"]) == 1
    assert capfd.readouterr().out.endswith("for people\n")


def test_what_is_said_is_in_every_json_answer(replace: Callable[[str, Run], None], capsys: Capture) -> None:
    def run(_: argparse.Namespace) -> Answer:
        for _again in range(2):
            say_on_stderr("line 3 is damaged\x1b[2J")
        return Answer(text="", document={"models": [], "warnings": [{"file": "a.mp4", "reason": "odd"}]})

    said = [{"file": "a.mp4", "reason": "odd"}, {"file": None, "reason": "line 3 is damaged\x1b[2J"}]
    replace("models", run)
    for _ in range(2):
        assert cli.main(["models", "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out) == {"models": [], "warnings": said} and "\x1b" not in out + err


def test_json_is_never_written_with_nan(replace: Callable[[str, Run], None], capsys: Capture) -> None:
    replace("models", lambda _: Answer(text="", document={"map": float("nan")}))
    assert cli.main(["models", "--json"]) == 1
    assert capsys.readouterr().out == ""


def test_a_reader_that_leaves_is_no_traceback() -> None:
    code = (
        "import sys\n"
        "from paretovid.platform.cli import main as cli, commands\n"
        "commands.models = lambda _: commands.Answer(text='line\\n' * 100_000)\n"
        "sys.exit(cli.main(['models']))\n"
    )
    command = f'{sys.executable} -c "$0" | head -n 1'
    answer = subprocess.run(["sh", "-c", command, code], capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == ("line\n", "")


def test_tables_are_aligned() -> None:
    assert format_table(("a", "b"), [("long", "x"), ("y", "")]) == "a     b\nlong  x\ny"


@pytest.mark.slow
def test_flops_lists_every_component(capsys: Capture) -> None:
    from paretovid.trainables.backbones.catalog import all_components

    assert cli.main(["flops", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["components"]
    names = {entry["name"] for entry in entries}
    assert set(all_components()) <= names
    assert {"lite_eval.coarse_rnn", "lite_eval.fine_rnn", "lite_eval.gate", "lite_eval.head"} <= names
    assert all(list(entry) == ["name", "input", "gmacs", "published", "source"] for entry in entries)
    # A library that is not installed is reported, and not counted as free.
    unknown = {entry["name"]: entry["source"] for entry in entries if entry["gmacs"] is None}
    assert unknown.keys() <= {"dpn107@224"} and all("needs timm" in shown for shown in unknown.values())
    free = {entry["name"] for entry in entries if entry["gmacs"] is not None and not entry["gmacs"] > 0}
    # What is seen again is paid once; the paper's accounting charges it again and needs a name for it.
    assert free and all(name.endswith((".revisit", ".memory_reuse")) for name in free)


@pytest.mark.slow
def test_flops_computes_the_papers_tables(capsys: Capture) -> None:
    assert cli.main(["flops", "--published", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["rows", "warnings"]
    fields = ["paper", "table", "row", "published", "computed", "relative_error", "note"]
    assert all(list(row) == fields for row in document["rows"])
    assert {row["paper"] for row in document["rows"]} == {
        "AdaFrame",
        "Conditional Model Selection",
        "HCMS",
        "LiteEval",
        "VideoEpitoma",
    }
    assert cli.main(["flops", "--published"]) == 0
    text = capsys.readouterr().out
    assert "AdaFrame-10 (DPN), mu 0.7, FCVID" in text and "not derivable: " in text


def check(found: list[doctor.Check], name: str) -> doctor.Check:
    (only,) = [entry for entry in found if entry.name == name]
    return only


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_doctor_finds_this_installation_in_order(
    shared_cluster: Cluster, tmp_path: Path, capsys: Capture
) -> None:
    assert cli.main(["doctor", "--json", f"home={tmp_path}"]) == 0
    states = {entry["name"]: entry["state"] for entry in json.loads(capsys.readouterr().out)["checks"]}
    expected = {
        "python",
        "torch",
        "ray",
        "encoder libx264",
        "encoder aac",
        "RAY_ADDRESS",
        "cluster",
        "node",
        "home",
        "optuna store",
    }
    assert expected <= {name for name, state in states.items() if state == "ok"}
    assert {"disk", "memory", "mlflow store"} <= set(states)


def test_doctor_says_what_to_repair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(doctor, "_PLATFORM", ("not_installed_anywhere",))
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "0")
    monkeypatch.setattr(doctor, "MEMORY_GIB", 10**6)
    assert cli.main(["doctor", f"home={tmp_path / 'file' / 'home'}"]) == 1
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert {line[1] for line in lines if line[0] == "fail"} == {"not_installed_anywhere", "ray", "home"}
    assert ["warn", "memory"] in [line[:2] for line in lines]
    assert "-> pip install 'paretovid[platform]'" in out
    assert out.splitlines()[-1] == "3 to repair."


def test_doctor_reports_a_cluster_that_does_not_answer_and_of_nodes_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ray.is_initialized", lambda: False
    )  # tests before may share a cluster of this process
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        (found,) = doctor._cluster(str(tmp_path), [f"cluster.address=127.0.0.1:{port}"])
    assert (found.name, found.state) == ("cluster", "fail") and "nobody answers" in found.found
    fits = NodeInfo(name="a (1)", resources={}, versions=own_versions(), free_bytes=10 * doctor.GIB)
    assert doctor._node(fits, problems_of(fits)).state == "ok"
    late = dataclasses.replace(fits, clock_offset_seconds=-7.0)
    assert doctor._node(late, problems_of(late)).state == "warn"
    full = dataclasses.replace(fits, free_bytes=1)
    assert doctor._node(full, problems_of(full)).state == "warn"
    other = dataclasses.replace(fits, versions={**own_versions(), "python": "3.9.1"}, sees_probe=False)
    shown = doctor._node(other, problems_of(other))
    assert shown.state == "fail" and "python 3.9.1" in shown.found and "does not see the home" in shown.found
    mute = dataclasses.replace(fits, error="timed out")
    assert "cannot be asked: timed out" in doctor._node(mute, problems_of(mute)).found


def test_doctor_says_when_ray_would_let_everybody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr("ray.__version__", "2.55.0")
    found = check(list(doctor._ray()), "ray tokens")
    assert found.state == "fail" and found.found.startswith("Ray 2.55.0 asks for a token only where")
    assert found.repair.startswith("Set RAY_AUTH_MODE=token in the environment")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert not [each for each in doctor._ray() if each.name == "ray tokens"]


def test_doctor_sees_a_damaged_store(tmp_path: Path) -> None:
    damaged = tmp_path / "store.db"
    damaged.write_bytes(b"this is not a database" * 100)
    found = doctor._store("optuna store", f"sqlite:///{damaged}")
    assert (found.state, bool(found.repair)) == ("fail", True)
    assert doctor._store("optuna store", f"sqlite:///{tmp_path / 'none.db'}").state == "ok"
    assert doctor._store("mlflow store", "postgresql://user:secret@host/db").found.startswith("postgresql ")


@pytest.mark.parametrize(("limit", "gib"), [("max", 8), (str(3 * doctor.GIB), 2), (str(64 * doctor.GIB), 8)])
def test_memory_is_the_containers_if_that_is_less(limit: str, gib: int, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 99 kB\nMemAvailable: 8388608 kB\n")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{doctor.GIB}\n")
    assert doctor.available_memory_bytes(meminfo, tmp_path) == gib * doctor.GIB


def test_predict_continues_past_a_bad_video(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    good: dict[str, Any] = {"path": "a.mp4", "labels": [{"label": "three", "score": 0.9}], "gflops": 0.5}
    good |= {"calls": {"fine": 2}, "steps": ["coarse", "fine", "fine"], "error": None}
    good |= {"notes": ["no audio: silence"], "stopped_by": "cap"}
    bad: dict[str, Any] = {
        "path": "b.txt",
        "labels": [],
        "gflops": None,
        "calls": {},
        "steps": [],
        "notes": [],
        "error": "not a video",
    }
    warned = {"file": "a.mp4", "reason": "no audio: silence"}
    document = {"model": "m", "videos": [good, bad], "notes": ["of both videos"], "warnings": [warned]}
    monkeypatch.setattr(commands, "_predict_document", lambda _: document)
    assert cli.main(["predict", "m", "a.mp4", "b.txt"]) == 1
    reported = capsys.readouterr()
    assert reported.err.splitlines() == ["note: a.mp4: no audio: silence"]
    assert reported.out.splitlines() == [
        "a.mp4: three 0.900",
        "  0.5 GFLOPs; looked at 2 of 3 steps closely (steps 1, 2)",
        "  calls: fine x 2",
        "  the cap refused at least one read",
        "b.txt: not a video",
        "note: of both videos",
    ]
    assert cli.main(["predict", "m", "a.mp4", "b.txt", "--json"]) == 1
    reported = capsys.readouterr()
    assert reported.err.splitlines() == ["note: a.mp4: no audio: silence"]
    assert json.loads(reported.out)["warnings"] == [warned]


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("models", 0, "No models yet"),
        ("models digits", 2, "unknown model: 'digits'"),
        ("sweeps", 0, "No sweeps yet in {home}. "),
        ("sweeps s", 2, "there is no home {home}"),
        ("front s", 2, "there is no home {home}"),
        ("promote s --knee --as digits", 2, "there is no home {home}"),
        ("resume s", 2, "there is no home {home}"),
        ("extend s +1", 2, "there is no home {home}"),
        ("replay s", 2, "there is no home {home}"),
        ("predict models:/digits@champion a.mp4", 2, "there is no models:/digits@champion"),
    ],
)
def test_what_only_reads_makes_no_home_where_it_is_typed_in_the_wrong_folder(
    command: str, status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = tmp_path / "home"
    assert cli.main([*command.split(), f"home={home}"]) == status
    out, err = capsys.readouterr()
    assert said.format(home=home) in (err if status else out)
    assert not home.exists()


def test_the_options_of_predict_reach_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(prediction, "answers_of", lambda *_, **settings: given.update(settings) or [])
    words = "predict models:/m@c a.mp4 --budget 0.1 --max-gflops 2 --set mu=0.2 --on-demand --json"
    assert cli.main([*words.split(), f"home={tmp_path}"]) == 0
    limits = given.pop("limits")
    assert given == {"budget": 0.1, "max_gflops": 2.0, "params": {"mu": 0.2}, "on_demand": True}
    assert limits == {}


def test_a_command_that_promote_prints_names_the_home_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def made(home: Home, *_: object, **__: object) -> promotion.Promotion:
        version = promotion.Promotion(name="m", version="1", alias="c", previous=None, point="t0000-p00")
        return dataclasses.replace(version, in_commands=home.in_commands)

    monkeypatch.setattr(promotion, "promote", made)
    monkeypatch.setattr(promotion, "rollback", made)
    for command in ("promote s --knee --as m --alias c", "rollback m --alias c"):
        assert cli.main([*command.split(), f"home={tmp_path}"]) == 0
        assert capsys.readouterr().out.count(f"home={tmp_path}") == 1, command


def test_a_setting_among_videos_is_no_video(tmp_path: Path, capsys: Capture) -> None:
    status = cli.main(["predict", "models:/m@c", "a.mp4", "tracking.uri=http://x", f"home={tmp_path}"])
    assert status == 2
    assert "not a video: 'tracking.uri=http://x'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "sweep --dry-run method.model.network.step_dropout=1",
            "lite_eval.network.step_dropout must be in [0, 1), not 1.0",
        ),
        (
            "sweep --dry-run method.model.temperature_floor=nan",
            "lite_eval.temperature_floor must be in (0, 1], not nan",
        ),
        ("sweep baselines=[{name:a,method:early_fusion,model:{hidden:0}}]", "early_fusion.hidden must be in"),
        ("sweep training.warmup_fraction=1", "training.warmup_fraction must be in [0, 1), not 1.0"),
        ("sweep cluster.cpus=0", "cluster.cpus must be 1 or more, not 0"),
        ("extract backbones.training.effort=inf", "backbones.training.effort must be above 0, not inf"),
        ("data make data.sparsity=2", "data.sparsity must be in [0.01, 0.9], not 2.0"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_made(
    command: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert cli.main([*command.split(), f"home={home}"]) == 2
    shown = capsys.readouterr().err
    assert said in shown and "hint: Give a" in shown
    assert not home.exists()
