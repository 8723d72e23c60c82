"""The command line `paretovid`: what can be typed, and how a failure is reported.

What the commands do is in `commands.py`. Nothing here imports torch, Ray or their like: `--help` must
answer at once.

Exit status: 0 done, 1 failed at work, 2 wrong use or configuration, 130 interrupted, 143 ended by SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from paretovid import __version__
from paretovid.platform.cli import commands
from paretovid.platform.console.printable import printable, printable_message
from paretovid.platform.console.shell import with_home
from paretovid.platform.console.warnings import said_meanwhile
from paretovid.platform.storage.faults import infrastructure_fault
from paretovid.trainables.documents import JsonObject, JsonValue
from paretovid.trainables.errors import ParetovidError, UsageError
from paretovid.trainables.redaction.texts import redact_logs, redacted, redacted_traceback
from paretovid.trainables.redaction.urls import without_urls

_SHARED_OVERRIDE = re.compile(r"(home|seed)=")
_OVERRIDE = re.compile(r"(\+{0,2}[^=\s]+=.*|~\S+)", re.DOTALL)
_PLATFORM_PACKAGES = frozenset(
    ("hydra", "matplotlib", "mlflow", "omegaconf", "optuna", "psutil", "pytorchvideo", "ray", "sklearn")
)
_EPILOG = """\
Every command takes home=FOLDER (default: PARETOVID_HOME, else ./paretovid-home) and seed=NUMBER.
key=value follows Hydra's override grammar; an unknown key lists the known ones.

  paretovid sweep                                     search, from nothing to a front
  paretovid resume SWEEP                              resume after any interruption
  paretovid front SWEEP --max-gflops 0.5              what the budget buys
  paretovid confirm SWEEP --seeds 5                   whether its points hold under other seeds
  paretovid promote SWEEP --knee --as digits --alias champion
  paretovid predict models:/digits@champion some.mp4
"""


_TAKE_OVER = "if another driver runs this sweep: ask it to stop, and resume in its place"


class _Parser(argparse.ArgumentParser):
    """Reports wrong use as a `UsageError`, like everything else."""

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split())
        raise UsageError(message, f"{usage}; see `{self.prog} --help`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status; never raises for what a user can cause."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in typed
    redact_logs()
    try:
        args = parse(typed)
        with warnings.catch_warnings(), said_meanwhile() as said, _stdout_only_for_results(args.json):
            if not debug:
                # Other packages' notes to their developers; a user can do nothing about them.
                warnings.simplefilter("ignore", FutureWarning)
            answer = args.run(args)
        if args.json:
            print(_to_json(_with_warnings(answer.document, said)), flush=True)
        else:
            print(printable(answer.text, keep="\n"), flush=True)
        return int(answer.exit_status)
    except KeyboardInterrupt as error:
        reason = getattr(error, "reason", "interrupted")
        hint = getattr(error, "hint", "") or "What was finished is kept; the same command reuses it."
        _report(reason, hint, typed)
        return int(getattr(error, "exit_status", 130))
    except BrokenPipeError:
        # The reader (`| head`) has left; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except ParetovidError as error:
        _report(error.message, error.hint, typed)
        return error.exit_status
    except Exception as error:
        message, hint = _explain_unexpected(error)
        _report(message, hint, typed)
        return 1


def parse(typed: Sequence[str]) -> argparse.Namespace:
    """The command's arguments. `args.home`, `args.seed` and `args.overrides` come from `key=value` words.

    Raises `UsageError`.
    """
    shared = [word for word in typed if _SHARED_OVERRIDE.match(word)]
    args, rest = _build_parser().parse_known_args([word for word in typed if word not in shared])
    # argparse fills a list of positional words only up to the next option: `predict M a.mp4 --json b.mp4`.
    unknown = [word for word in rest if word.startswith("-") or not args.rest_name]
    if unknown:
        raise UsageError(f"unknown argument: {' '.join(unknown)}", f"See `paretovid {args.command} --help`.")
    if args.rest_name:
        setattr(args, args.rest_name, [*getattr(args, args.rest_name), *rest])
    args.overrides = [*getattr(args, "overrides", []), *shared]
    for word in args.overrides:
        if not _OVERRIDE.fullmatch(word):
            raise UsageError(
                f"not an override: {without_urls(word)!r}", "Write key=value, for example search.trials=8."
            )
    values = dict(word.split("=", 1) for word in shared)
    args.home = values.get("home") or None
    args.seed = _seed(values["seed"]) if "seed" in values else None
    return args


def _build_parser() -> _Parser:
    parser = _Parser(
        prog="paretovid",
        description="The trade-off between mAP and GFLOPs of conditional video recognition.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"paretovid {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(json=False, rest_name=None)
    add = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    _add_making(add)
    _add_going_on(add)
    _add_choosing(add)
    _add_using(add)
    _add_looking_after(add)
    return parser


def _add_making(add: Any) -> None:
    data = add.add_parser("data", help="the built-in video set, or those of others", allow_abbrev=False)
    add_data = data.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    make = _command(add_data, "make", commands.data_make, "make the built-in set, or read annotations")
    upload = _command(
        add_data, "upload", commands.data_upload, "send videos of your own to a home in a bucket"
    )
    upload.add_argument("folder", metavar="FOLDER", help="with a manifest.json")
    extract = _command(add, "extract", commands.extract, "decode videos once and write their features")
    sweep = _command(add, "sweep", commands.sweep, "make what is missing, search, print the front")
    sweep.add_argument("--dry-run", action="store_true", help="only print the plan, its cost and the space")
    sweep.add_argument("--take-over", action="store_true", help=_TAKE_OVER)
    for command in (make, extract, sweep):
        command.add_argument("overrides", nargs="*", metavar="key=value", help="for example method=lite_eval")
        command.set_defaults(rest_name="overrides")


def _add_going_on(add: Any) -> None:
    resume = _command(add, "resume", commands.resume, "resume what is missing of a sweep")
    extend = _command(add, "extend", commands.extend, "add trials to a sweep")
    for command in (resume, extend):
        command.add_argument("sweep", metavar="SWEEP", type=_name)
    extend.add_argument("more", metavar="+N", type=_more, help="how many trials, for example +8")
    for command in (resume, extend):
        command.add_argument("--take-over", action="store_true", help=_TAKE_OVER)
        command.add_argument(
            "overrides", nargs="*", metavar="key=value", help="where it runs: cluster.…, tracking.…"
        )
        command.set_defaults(rest_name="overrides")
    _add_confirm(add)
    replay = _command(add, "replay", commands.replay, "report to MLflow what it has missed of a sweep")
    replay.add_argument("sweep", metavar="SWEEP", type=_name)
    replay.add_argument("--uri", metavar="URI", help="another MLflow than the sweep's")
    replay.add_argument("--all", action="store_true", dest="whole", help="from the first event on")
    sweeps = _command(add, "sweeps", commands.sweeps, "list sweeps, or show how far one is", has_json=True)
    sweeps.add_argument("sweep", metavar="SWEEP", nargs="?", type=_name, help="trials, hours, what waits")
    sweeps.add_argument("--watch", action="store_true", help="show it again and again until it ends")


def _add_confirm(add: Any) -> None:
    confirm = _command(
        add, "confirm", commands.confirm, "train points of a front again with other seeds", has_json=True
    )
    confirm.add_argument("sweep", metavar="SWEEP", type=_name)
    confirm.add_argument(
        "--points",
        type=_points,
        default=(),
        metavar="ID,…",
        help="as `paretovid front` names them; default: the front",
    )
    confirm.add_argument(
        "--seeds", type=_seeds, default=5, metavar="N", help="how many other seeds in all; default: 5"
    )
    confirm.add_argument("--take-over", action="store_true", help=_TAKE_OVER)
    confirm.add_argument(
        "overrides", nargs="*", metavar="key=value", help="where it runs: cluster.…, tracking.…"
    )
    confirm.set_defaults(rest_name="overrides")


def _add_choosing(add: Any) -> None:
    front = _command(add, "front", commands.front, "the front of one or several sweeps", has_json=True)
    front.add_argument("sweeps", nargs="+", metavar="SWEEP")
    front.set_defaults(rest_name="sweeps")
    front.add_argument("--split", choices=("val", "test"), default="test", help="measured on; default: test")
    front.add_argument("--max-gflops", type=_gflops, metavar="X", help="only points that spend at most X")
    front.add_argument(
        "--min-map",
        type=_map,
        metavar="Y",
        help="only points with at least this mAP (0 to 1), of the sweep's kind",
    )
    front.add_argument("--html", metavar="FILE", help="write a picture with values on hover")
    front.add_argument("--png", metavar="FILE", help="write a picture")

    promote = _command(add, "promote", commands.promote, "register an operating point, move an alias to it")
    promote.add_argument("sweep", metavar="SWEEP")
    which = promote.add_mutually_exclusive_group(required=True)
    which.add_argument("--point", metavar="ID", help="this point, as `paretovid front` names it")
    which.add_argument("--max-gflops", type=_gflops, metavar="X", help="the best that spends at most X")
    which.add_argument(
        "--min-map", type=_map, metavar="Y", help="the cheapest with at least this mAP, of its kind"
    )
    which.add_argument("--knee", action="store_true", help="where the front bends most")
    promote.add_argument("--as", dest="name", required=True, metavar="NAME", help="name in the registry")
    promote.add_argument("--alias", metavar="ALIAS", help="for example champion")


def _add_limits(command: argparse.ArgumentParser) -> None:
    """Options for what one video may ask for."""
    for name, kind, about in (
        ("max-pixels", int, "refuse a video whose frames have more"),
        ("max-steps", int, "refuse a video of more steps"),
        ("max-decode-seconds", float, "refuse a video that takes longer to decode"),
    ):
        command.add_argument(f"--{name}", type=kind, metavar="N", help=about)


def _add_using(add: Any) -> None:
    rollback = _command(add, "rollback", commands.rollback, "move an alias back to the version before")
    rollback.add_argument("name", metavar="NAME")
    rollback.add_argument("--alias", required=True, metavar="ALIAS")
    models = _command(
        add, "models", commands.models, "registered versions, aliases, gate results", has_json=True
    )
    models.add_argument("name", nargs="?", metavar="NAME")
    predict = _command(
        add, "predict", commands.predict, "labels, scores and GFLOPs spent for videos", has_json=True
    )
    predict.add_argument("model", metavar="MODEL", help="for example models:/digits@champion")
    predict.add_argument("videos", nargs="+", metavar="VIDEO")
    predict.add_argument(
        "--max-gflops",
        type=_gflops,
        metavar="X",
        help="no video costs more; how: --set cap_rule=stop or cheap",
    )
    predict.add_argument(
        "--budget",
        type=_number,
        metavar="X",
        help="of a model with a dial: one of the budgets that its card lists, or between",
    )
    predict.add_argument(
        "--set",
        type=_knob,
        action="append",
        default=[],
        metavar="KNOB=X",
        help="an inference knob: mu=0.2, cap_rule=cheap",
    )
    predict.add_argument(
        "--picture", type=Path, metavar="FOLDER", help="draw what was looked at in each video into FOLDER"
    )
    predict.add_argument(
        "--on-demand", action="store_true", help="read a backbone's weights when a video first needs it"
    )
    _add_limits(predict)
    predict.set_defaults(rest_name="videos")


def _add_looking_after(add: Any) -> None:
    flops = _command(add, "flops", commands.flops, "what each component costs per call", has_json=True)
    flops.add_argument(
        "--published",
        action="store_true",
        help="compute the cost tables of the papers, beside what they print",
    )
    relocate = _command(
        add,
        "relocate",
        commands.relocate,
        "write into MLflow's store where a home that was moved or copied is now",
        has_json=True,
    )
    relocate.add_argument("--dry-run", action="store_true", help="only say what would change")
    doctor = _command(
        add, "doctor", commands.doctor, "check installation and cluster, say what to repair", has_json=True
    )
    doctor.add_argument(
        "--deep",
        action="store_true",
        help="also read all features, backbones and results of the home, and compare their digests",
    )
    doctor.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for example cluster.address=head:6379"
    )
    doctor.set_defaults(rest_name="overrides")


def _command(add: Any, name: str, run: Any, summary: str, *, has_json: bool = False) -> Any:
    parser = add.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    # SUPPRESS: a default here would undo `paretovid --debug COMMAND`.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    parser.set_defaults(run=run)
    if has_json:
        parser.add_argument("--json", action="store_true", help="print one JSON document, nothing else")
    return parser


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"a finite number is expected, not {text!r}")
    return value


def _name(text: str) -> str:
    if "=" in text:
        raise argparse.ArgumentTypeError(f"the name of a sweep is expected, not {text!r}")
    return text


def _more(text: str) -> int:
    if not re.fullmatch(r"\+?[1-9][0-9]{0,6}", text):
        raise argparse.ArgumentTypeError(f"a number of trials is expected, for example +8, not {text!r}")
    return int(text)


def _points(text: str) -> tuple[str, ...]:
    points = tuple(dict.fromkeys(filter(None, (each.strip() for each in text.split(",")))))
    if not points:
        raise argparse.ArgumentTypeError(
            f"ids of points are expected, for example t0003-p05,t0007-p00, not {text!r}"
        )
    return points


def _seeds(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(f"a number of seeds is expected, 1 or more, not {text!r}")
    return int(text)


def _knob(text: str) -> tuple[str, float | str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"KNOB=X is expected, for example mu=0.2, not {text!r}")
    # A knob may be a word; what it may be, the model says.
    is_word = value.isidentifier() and value.lower() not in ("nan", "inf", "infinity")
    return name, value if is_word else _number(value)


def _gflops(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"more than 0 is expected, not {text!r}")
    return value


def _map(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"mAP is a fraction between 0 and 1, not {text!r}")
    return value


def _seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"seed={text!r}", "A whole number from 0 to 999999999 is expected.")
    return int(text)


def _with_warnings(document: JsonObject, said: Sequence[str]) -> JsonObject:
    """The document with `warnings`, an object with `file` and `reason` each. Those of no one video have no file."""
    known = cast("list[JsonValue]", document.get("warnings", []))
    return {**document, "warnings": [*known, *({"file": None, "reason": text} for text in said)]}


def _to_json(document: Any) -> str:
    return json.dumps(document, indent=2, allow_nan=False)


def _report(message: str, hint: str, typed: Sequence[str]) -> None:
    """Commands that the texts name find the home that was typed, also where the words were wrong otherwise."""
    home = next((word.partition("=")[2] for word in reversed(typed) if word.startswith("home=")), None)
    message, hint = (with_home(text, home or None) for text in (message, hint))
    if "--debug" in typed:
        sys.stderr.write(redacted_traceback())
    with contextlib.suppress(BrokenPipeError):
        print(f"paretovid: {printable_message(redacted(message))}", file=sys.stderr)
        if hint:
            print(f"  hint: {printable_message(redacted(hint))}", file=sys.stderr)


def _explain_unexpected(error: Exception) -> tuple[str, str]:
    if isinstance(error, OSError) and hasattr(error, "hint"):  # a bucket's: infra/ knows no ParetovidError
        return str(error), str(error.hint)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _PLATFORM_PACKAGES:
        return f"this command needs {error.name}, which is not installed", (
            "Install what the platform needs: pip install 'paretovid[platform]'."
        )
    fault = infrastructure_fault(error)
    if fault is not None:
        if fault.is_full:
            return (
                f"the disk is full: {fault.reason}",
                "Free space, then give the same command again: what was done is kept.",
            )
        return fault.reason, "Is its disk or mount there? The same command resumes; what was done is kept."
    return f"{type(error).__name__}: {error}", (
        "This was not foreseen. --debug shows where it happened; `paretovid doctor` checks the installation."
    )


@contextlib.contextmanager
def _stdout_only_for_results(wanted: bool) -> Iterator[None]:
    """If `wanted`, sends what libraries and their child processes print to stderr for the block."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
