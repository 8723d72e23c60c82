"""Several real Ray nodes on this machine, each with a cache of its own: placement, copies, the loss of a node."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from tests.conftest import Clusters
from tests.platform_tests.conftest import make_probe, make_reader

from paretovid.infra import nodes as nodes_module
from paretovid.infra.nodes import inspect_nodes
from paretovid.infra.placement import TrialResources
from paretovid.infra.ray_cluster import CLUSTER_ENVIRONMENT, connect, environment
from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.config.resolve import plugins_in_use
from paretovid.platform.execution import cluster as cluster_check
from paretovid.platform.execution.cluster import check_nodes, code_to_send
from paretovid.platform.execution.launcher import launch_trials
from paretovid.platform.execution.outcome import FixedTrial, TrialCallback
from paretovid.platform.execution.patience import Waiting
from paretovid.platform.storage.documents import read_json_object
from paretovid.platform.storage.home import Home, SweepPaths, TrialPaths
from paretovid.platform.sweeps.trials import trainable_on
from paretovid.trainables.documents import JsonObject
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.results import TrialResult
from paretovid.trainables.provenance import code_version
from paretovid.trainables.training.config import TrainingConfig, TrialConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

NODES = 3


@dataclasses.dataclass
class Nodes:
    """A head without CPUs and three nodes of one CPU each."""

    cluster: Cluster
    workers: list[Any]
    caches: list[Path]


@pytest.fixture(scope="module")
def nodes(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    clusters.end()
    folder = tmp_path_factory.mktemp("nodes")
    with environment(CLUSTER_ENVIRONMENT):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        caches = [folder / f"node{index}" for index in range(NODES)]
        workers = [
            cluster.add_node(num_cpus=1, resources={"slot": 1}, env_vars={"PARETOVID_NODE_CACHE": str(cache)})
            for cache in caches
        ]
        try:
            with connect(cluster.address, py_modules=code_to_send()):
                yield Nodes(cluster, workers, caches)
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def home(small_home_copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory) -> Home:
    return small_home_copy(tmp_path_factory.mktemp("home"))


def trial(home: Home, folder: Path, name: str, seed: int, epochs: int) -> FixedTrial:
    features = home.features("moving_digits")
    config = TrialConfig(
        sweep="s",
        trial=name,
        method="lite_eval",
        model={"target_usage": 0.4},
        training=TrainingConfig(epochs=epochs, batch_size=8, checkpoint_every_epochs=5),
        seed=seed,
        dataset=str(home.data("moving_digits")),
        features={
            "coarse": str(next(features.glob("mobilenet*"))),
            "fine": str(next(features.glob("resnet*"))),
        },
        output=str(folder / "trials" / name),
    )
    return FixedTrial(trial_id=name, config=dataclasses.asdict(config))


def test_versions_clock_and_home_are_checked_on_every_node(
    nodes: Nodes, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_nodes(home)
    found = inspect_nodes(str(tmp_path / "not there"))
    assert len(found) == NODES + 1
    assert {node.versions["code"] for node in found} == {code_version()}
    assert all(abs(node.clock_offset_seconds) < 1 and node.free_bytes > 0 for node in found)
    assert not any(node.sees_probe for node in found)
    theirs = nodes_module.own_versions()
    monkeypatch.setattr(cluster_check, "own_versions", lambda plugins: {**theirs, "torch": "1.0"})
    with pytest.raises(UsageError, match=rf"has torch {theirs['torch']} \(here 1.0\)"):
        check_nodes(home)


def test_code_travels_with_the_job(nodes: Nodes) -> None:
    assert code_to_send(), "this is a checkout"

    def where() -> str:
        import paretovid

        return str(paretovid.__file__)

    remote: Any = ray.remote(num_cpus=1)(where)
    assert "py_modules" in ray.get(remote.remote())


def test_a_node_that_lacks_an_installed_plugin_is_named(
    nodes: Nodes, home: Home, no_plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really installed, in a folder that is on PYTHONPATH here and on one node more, not on the others."""
    installed = tmp_path / "installed"
    (installed / "some_plugins-1.2.dist-info").mkdir(parents=True)
    (installed / "theirs.py").write_text(PLUGIN)
    about = installed / "some_plugins-1.2.dist-info"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugins\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text("[paretovid.methods]\ntheirs = theirs:Theirs\n")
    monkeypatch.syspath_prepend(str(installed))
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    config = load_sweep_config(["baselines=[{name: other, method: theirs}]"])
    with_it = nodes.cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": path})
    try:
        check_nodes(home, plugins_in_use(load_sweep_config()))  # a sweep that has no use for it runs anywhere
        found = inspect_nodes(plugins=plugins_in_use(config))
        lacking = [node.name for node in found if "plug-in theirs" not in node.versions]
        assert (len(found), len(lacking)) == (NODES + 2, NODES + 1)
        with pytest.raises(UsageError) as raised:
            check_nodes(home, plugins_in_use(config))
    finally:
        nodes.cluster.remove_node(with_it)
    for name in lacking[:3]:
        said = (
            rf"{re.escape(name)} has plug-in theirs missing \(here some-plugins 1\.2, code [0-9a-f]{{12}}\)"
        )
        assert re.search(said, raised.value.message)
    assert "plug-ins on every node" in raised.value.hint


PLUGIN = """
from paretovid.trainables.baselines.uniform import Uniform
from paretovid.trainables.method import register

@register
class Theirs(Uniform):
    name = "theirs"
"""


def test_trials_spread_over_the_nodes_and_each_node_copies_the_features_once(
    nodes: Nodes, home: Home, tmp_path: Path
) -> None:
    trials = [trial(home, tmp_path / "s", f"a{seed}", seed, epochs=40) for seed in range(6)]
    train, num_nodes = trainable_on("/nowhere/named", code_version()), NODES

    def once_all_nodes_are_up(config: dict[str, Any], context: Any) -> TrialResult | None:
        """Trials this small would all be done by the node that is up first."""
        import os
        import time
        from pathlib import Path

        meeting = tmp_path / "meeting"
        meeting.mkdir(exist_ok=True)
        (meeting / Path(os.environ["PARETOVID_NODE_CACHE"]).name).touch()
        until = time.time() + 120
        while len(list(meeting.iterdir())) < num_nodes and time.time() < until:
            time.sleep(0.1)
        return train(config, context)

    summary = launch_trials(
        once_all_nodes_are_up,
        sweep=SweepPaths(tmp_path / "s"),
        fixed=trials,
        resources=TrialResources(cpus=1, custom={"slot": 1}),
    )
    assert (summary.succeeded, summary.failed) == (6, 0), summary.reasons
    for cache in nodes.caches:
        copies = [path for path in cache.glob("user-*/moving_digits/*") if path.is_dir()]
        assert len(copies) == 2, "coarse and fine, whole and under their names"
    result = json.loads((tmp_path / "s" / "trials" / "a0" / "result.json").read_text())
    assert result["digest"] == TrialConfig.from_json(trials[0].config).digest, (
        "where features were read from does not determine a result"
    )


def test_a_node_that_has_lost_the_features_takes_no_trials_until_it_has_them_again(
    nodes: Nodes, tmp_path: Path
) -> None:
    """All nodes of one machine see the same disk: the loss is injected, in the processes of one node."""
    features = tmp_path / "features"
    features.mkdir()
    (features / "index").touch()
    lost = nodes.caches[1] / "lost"
    lost.parent.mkdir(parents=True, exist_ok=True)
    lost.touch()
    notified: list[str | None] = []

    class Seen(TrialCallback):
        failures = 0

        def on_failure(self, trial_id: str, reason: str, will_retry: bool) -> None:
            self.failures += 1

        def on_node(self, node: str, host: str, reason: str | None) -> None:
            notified.append(reason)
            if reason is not None:
                began.append(time.monotonic())

        def on_poll(self) -> None:
            if began and time.monotonic() - began[0] > 2:
                lost.unlink(missing_ok=True)
            if notified[-1:] == [None] and any(
                node == there and step != "0" for _, step, node in steps_read(tmp_path)
            ):
                enough.touch()

    began: list[float] = []
    seen, there, enough = Seen(), str(nodes.caches[1]), tmp_path / "enough"
    # Two trials run until the lost node is back and has taken one of the others.
    reading: JsonObject = {"features": {"coarse": str(features)}, "steps": 2, "until": str(enough)}
    trials = [FixedTrial(trial_id=f"a{number}", config=reading) for number in range(4)]
    summary = launch_trials(
        make_reader(tmp_path),
        sweep=SweepPaths(tmp_path / "home" / "sweeps" / "s"),
        fixed=trials,
        callback=seen,
        resources=TrialResources(cpus=1),
        max_failures=0,
        waiting=Waiting(seconds=1.0, probe=make_probe(), recheck_seconds=1.0),
    )
    assert (summary.succeeded, summary.failed, seen.failures) == (4, 0, 0), summary.reasons
    assert len(notified) == 2 and "Stale file handle (injected)" in str(notified[0]) and notified[1] is None
    on_lost = [step for _, step, node in steps_read(tmp_path) if node == there]
    assert "0" in on_lost, "the node was given a trial, and again when it was back"
    assert set(on_lost) > {"0"}, "once it is back it takes trials"


def steps_read(folder: Path) -> list[list[str]]:
    """Trial, step and node of each of `make_reader`'s steps."""
    reads = folder / "reads"
    return [line.split() for line in reads.read_text().splitlines()] if reads.exists() else []


def test_trials_of_a_lost_node_resume_elsewhere_and_it_is_no_failure_of_theirs(
    nodes: Nodes, home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    faults: list[tuple[str, str, bool]] = []

    class Failures(TrialCallback):
        def on_failure(self, trial_id: str, reason: str, will_retry: bool) -> None:
            faults.append((trial_id, reason, will_retry))

    trials = [trial(home, folder, f"a{seed}", seed, epochs=20) for seed in range(4)]
    lost, gone = nodes.workers.pop(), tmp_path / "gone"
    train = trainable_on(None, code_version())

    def held_until_it_is_lost(config: dict[str, Any], context: Any) -> TrialResult | None:
        """Trials this small would be done before a node can be taken away: each waits behind its first checkpoint."""
        import time

        report = context.report

        def report_and_wait(progress: dict[str, float], checkpoint: Path | None = None) -> None:
            report(progress, checkpoint)
            while not gone.exists():
                context.heartbeat()
                time.sleep(0.05)

        context.report = report_and_wait
        return train(config, context)

    def is_busy() -> bool:
        """Whether a trial that has a checkpoint is on the node that will be lost."""
        raylet = psutil.Process(lost.all_processes["raylet"][0].process.pid)
        here = {child.pid for child in raylet.children(recursive=True)}
        kept = [path.parent for path in folder.glob("trials/*/checkpoint-*[0-9]")]
        return bool(here & {(read_json_object(TrialPaths(each).heartbeat) or {}).get("pid") for each in kept})

    def lose() -> None:
        until = time.time() + 120
        while not is_busy() and time.time() < until:
            time.sleep(0.1)
        nodes.cluster.remove_node(lost, allow_graceful=False)
        gone.touch()

    losing = threading.Thread(target=lose)
    losing.start()
    summary = launch_trials(
        held_until_it_is_lost,
        sweep=SweepPaths(folder),
        fixed=trials,
        callback=Failures(),
        resources=TrialResources(cpus=1),
        max_failures=0,
    )
    losing.join()
    assert (summary.succeeded, summary.failed) == (4, 0), summary.reasons
    (fault,) = faults
    assert fault[2] and re.search("node was lost|connection to its node was lost", fault[1])
