"""Secrets in every place where one can be written; none is in anything that a sweep, a promotion and failures leave.

Everything is real: a sweep on Ray in a process of its own, whose command line holds a signature, MLflow, a server that
wants signatures, and libraries that put their URLs into what they raise (`planted.py`).
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from paretovid.platform.records.sweep import known_record
from paretovid.platform.storage.home import Home
from paretovid.trainables.backbones.catalog import component
from paretovid.trainables.backbones.description import BackboneDescription
from paretovid.trainables.plugins.catalog import use_plugins

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "paretovid_example_plugins" / "first_sure.py"
NOWHERE = "127.0.0.1:9"
LIBRARIES = ("requests", "botocore", "mlflow", "urllib")
SCRIPT = """
import json, sys
from paretovid.infra.ray_cluster import connected_once
from paretovid.platform.cli.main import main

commands, statuses = json.load(sys.stdin), []
with connected_once():
    statuses.append(main())
    for words in commands:
        statuses.append(main(words))
print("statuses", json.dumps(statuses))
"""
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("no_plugins"),
]


class Secrets:
    """Makes secrets, and remembers where each is planted."""

    def __init__(self) -> None:
        self.by_place: dict[str, str] = {}

    def at(self, place: str, form: str = "{}") -> str:
        """A new one, as `form` writes it."""
        assert place not in self.by_place
        self.by_place[place] = f"Zq{len(self.by_place):02d}{os.urandom(8).hex()}"
        return form.format(self.by_place[place])

    def found_in(self, content: bytes) -> list[str]:
        """Places whose secrets are there, plain or as HTTP's basic authentication writes them."""
        return [
            place
            for place, secret in self.by_place.items()
            if any(form in content for form in (secret.encode(), _base64(secret), _base64(f"me:{secret}")))
        ]


def _base64(text: str) -> bytes:
    return base64.b64encode(text.encode()).rstrip(b"=")[:-1]  # the last letter depends on what follows


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, set[str]]]:
    """The URL of a server of weights, and the queries that it answers; any other one is forbidden."""
    allowed: set[str] = set()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "weights"))

        def do_GET(self) -> None:
            if self.path.partition("?")[2] in allowed:
                super().do_GET()
            else:
                self.send_error(403)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", allowed
        running.shutdown()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sessions; a short path, as it has sockets there."""
    folder = Path(tempfile.mkdtemp(prefix="pv"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder that commands are typed in, with the plug-in and its weights beside."""
    folder = tmp_path / "here"
    folder.mkdir()
    shutil.copy(EXAMPLE, folder)
    shutil.copy(Path(__file__).with_name("planted.py"), folder)
    os.chdir(folder)
    use_plugins(["planted"])
    (tmp_path / "weights").mkdir()
    for source, size in (("coarse", 16), ("fine", 32)):
        trunk = component(f"planted_{source}@{size}").build(1).trunk
        torch.save(trunk.state_dict(), tmp_path / "weights" / f"{source}.pth")
    return folder


def environment(secrets: Secrets, urls: Path, ray_folder: Path) -> dict[str, str]:
    """Variables that clients read, and those that `planted.py` asks with."""
    at = secrets.at
    own = {
        name: at(name) for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    }
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW", "AWS", "PARETOVID"))
        },
        **own,
        "PGPASSWORD": at("PGPASSWORD"),
        "RAY_AUTH_TOKEN": at("RAY_AUTH_TOKEN", "{}" + "0" * 12),
        "MLFLOW_TRACKING_USERNAME": "me",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": at("AWS_ENDPOINT_URL", f"http://me:{{}}@{NOWHERE}"),
        "WANDB_API_KEY": at("WANDB_API_KEY"),
        "PARETOVID_SIGNED_URLS": str(urls),
        "PARETOVID_STUDY_STORAGE": at(
            "PARETOVID_STUDY_STORAGE", f"postgresql+psycopg2://me:{{}}@{NOWHERE}/x"
        ),
        "PLANTED_LOGGED": at("a log record", f"http://me:{{}}@{NOWHERE}/x"),
        "PLANTED_REQUESTS": at("requests", f"http://{NOWHERE}/x?token={{}}"),
        "PLANTED_BOTOCORE": at("botocore", f"http://me:{{}}@{NOWHERE}"),
        "PLANTED_MLFLOW": at("mlflow", f"http://me:{{}}@{NOWHERE}"),
        "PLANTED_URLLIB": at("urllib", "http://me:{}@127.0.0.1/x"),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": str(ray_folder),
    }


def sweep(name: str, home: Home, *words: str) -> list[str]:
    baselines = ", ".join(f"{{name: {each}, method: leaky, model: {{client: {each}}}}}" for each in LIBRARIES)
    return [
        "sweep",
        f"name={name}",
        f"home={home.root}",
        "plugins=[planted]",
        "backbones.family=planted",
        *(f"data.videos_{split}=8" for split in ("train", "val", "test")),
        "data.min_seconds=2.0",
        "data.max_seconds=3.0",
        "search.trials=2",
        "search.max_failures=0",
        "training.epochs=1",
        "cluster.cpus=1",
        f"baselines=[{baselines}]",
        *words,
    ]


def refused(secrets: Secrets, home: Home) -> list[list[str]]:
    """Commands with a secret where none may be, each for another reason."""
    at, there = secrets.at, f"home={home.root}"
    words = [
        at("search.storage", "search.storage='postgresql://me:{}@host/x'"),
        at("search.storage: no URL", "search.storage='host=h password={} user=u'"),
        at("search.storage: parameter", "search.storage='postgresql://host/x?password={}'"),
        at("search.storage: not quoted", "search.storage=postgresql://me:[{} x@host/x"),
        at("tracking.uri", "tracking.uri='https://me:{}@host'"),
        at("tracking.uri: no scheme", "tracking.uri='//me:{}@host/x'"),
        at("tracking.uri: user", "tracking.uri='https://ghp_{}@host'"),
        at("tracking.uri: query", "tracking.uri='https://host/?token={}'"),
        at("cluster.address", "cluster.address='ray://me:{}@host:10001'"),
        at("cluster.node_cache", "cluster.node_cache='s3://bucket/x?sig={}'"),
        at("data.annotations", "data.annotations='https://me:{}@host/x.csv'"),
        at("method.model", "method.model.selector='https://host/x?X-Amz-Signature={}'"),
        at("backbones.weights: password", "backbones.weights.fine='https://me:{}@host/x.pth'"),
        at("backbones.weights: what it names", "backbones.weights.fine='https://host/get?id={}'"),
    ]
    return [
        *(sweep("refused", home, "backbones.weights.coarse=coarse.pth", word) for word in words),
        ["sweeps", at("home", "home=s3://key:{}@bucket/home")],
        ["replay", "kept", there, "--uri", at("--uri", "https://me:{}@host")],
    ]


@pytest.fixture
def planted(
    place: Path,
    server: tuple[str, set[str]],
    ray_folder: Path,
    small_home_copy: Callable[[Path], Home],
    tmp_path: Path,
) -> tuple[Secrets, Home, str]:
    """The secrets, the home after all commands, and what they have printed."""
    secrets, home, (url, allowed) = Secrets(), small_home_copy(tmp_path / "home"), server
    in_argv = secrets.at("a token in argv", "X-Amz-Security-Token={}&")
    in_argv += secrets.at("a signature in argv", "X-Amz-Signature={}")
    in_file = secrets.at("a signature in the file", "X-Amz-Signature={}")
    allowed |= {in_argv, in_file}
    urls = tmp_path / "urls.txt"
    urls.write_text(
        f"{url}/coarse.pth?{in_file}\n{url}/expired.pth?{secrets.at('an expired one', 'sig={}')}\n"
    )
    variables = environment(secrets, urls, ray_folder)
    coarse, there = f"backbones.weights.coarse={url}/coarse.pth", f"home={home.root}"
    fresh = secrets.at("a fresh signature", f"backbones.weights.fine='{url}/fine.pth?X-Amz-Signature={{}}'")
    forbidden, reachable = refused(secrets, home), f"search.storage={home.optuna_url}"
    commands = [
        ["promote", "kept", there, "--knee", "--as", "kept", "--alias", "champion"],
        ["resume", "kept", there, fresh],
        sweep("expired", home, coarse, f"backbones.weights.fine={url}/expired.pth", reachable),
        ["replay", "kept", there, "--all", "--uri", f"http://{NOWHERE}"],
        ["--debug", "replay", "kept", there, "--all", "--uri", f"http://{NOWHERE}"],
        ["predict", "models:/kept@champion", secrets.at("predict", "https://me:{}@host/a.mp4"), there],
        sweep("unreachable", home, coarse, f"backbones.weights.fine={url}/fine.pth"),
        ["doctor", there],
        *forbidden,
    ]
    first = sweep("kept", home, coarse, f"backbones.weights.fine='{url}/fine.pth?{in_argv}'", reachable)
    out = _run(first, commands, variables, place)
    statuses = [0, 0, 0, 1, 1, 1, 1, 2, 1, *[2] * len(forbidden)]
    assert json.loads(out.rpartition("statuses ")[2]) == statuses, out
    return secrets, home, out


def _run(
    words: Sequence[str],
    commands: Sequence[Sequence[str]],
    variables: dict[str, str],
    place: Path,
) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=500,
        env=variables,
        cwd=place,
        check=False,
    )
    return done.stderr + done.stdout


def leaks(secrets: Secrets, *folders: Path) -> list[str]:
    """Where the secrets lie below the folders, in files and in the tables of databases."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                found += [f"{path}: {each}" for each in secrets.found_in(path.read_bytes())]
            if path.suffix == ".db":
                with contextlib.closing(sqlite3.connect(path)) as tables:
                    found += [
                        f"{path}: {each}" for each in secrets.found_in("\n".join(tables.iterdump()).encode())
                    ]
    return found


def test_no_secret_is_left_anywhere(
    planted: tuple[Secrets, Home, str], place: Path, ray_folder: Path
) -> None:
    secrets, home, out = planted
    assert len(secrets.by_place) >= 30
    # First that everything has happened in which a secret could have been written.
    for client, said in (
        ("requests", "Max retries exceeded with url: /x?***"),
        ("botocore", "Could not connect to the endpoint URL"),
        ("mlflow", "API request to http://me@127.0.0.1:9/"),
        ("urllib", "nonnumeric port: '***@127.0.0.1'"),
    ):
        trial = home.sweep("kept").trial(client)
        assert said in trial.error.read_text()
        assert trial.failure.is_file()
    logs = b"".join(path.read_bytes() for path in ray_folder.rglob("*.err"))
    assert b"asking http://me@127.0.0.1:9/x once more, with the key ***" in logs
    assert "answers 403" in str(known_record(home.sweep("expired")).error)
    assert "postgresql+psycopg2://me@127.0.0.1:9/x" in str(known_record(home.sweep("unreachable")).error)
    weights = BackboneDescription.read(home.backbone("moving_digits", "planted_fine@32")).origin.training[
        "weights"
    ]
    assert str(weights).endswith("/fine.pth")
    # Then that none was.
    assert secrets.found_in(out.encode()) == []
    assert leaks(secrets, home.root, place, ray_folder) == []
