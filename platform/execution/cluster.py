"""The cluster that a configuration names; whether it can run our trials, asked before anything is started on it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray

import paretovid
from paretovid.infra.nodes import NodeInfo, inspect_nodes, own_versions, version_differences
from paretovid.infra.ray_cluster import LOCAL, Cluster, connect
from paretovid.platform.config.resolve import plugins_in_use
from paretovid.platform.execution.stopping import take_signals_again
from paretovid.platform.storage.home import Home, open_home
from paretovid.search_spaces.schema import SweepConfig
from paretovid.trainables.errors import DataError, UsageError
from paretovid.trainables.plugins.catalog import plugin_roots


@contextlib.contextmanager
def cluster_of(config: SweepConfig) -> Iterator[Cluster]:
    """The Ray cluster that the configuration names, connected for the block.

    Raises `DataError` if it cannot be reached, `UsageError` if its nodes cannot run our trials.
    """
    cluster = config.cluster
    is_local = cluster.address == LOCAL
    is_there = ray.is_initialized()
    try:
        connection = connect(
            cluster.address,
            cpus=cluster.cpus,
            gpus=cluster.gpus,
            object_store_megabytes=cluster.object_store_megabytes,
            py_modules=() if is_local else code_to_send(),
        )
        connected = connection.__enter__()
    except ConnectionError as error:
        raise DataError(str(error), "Run `paretovid doctor`, or see what cluster.address= names.") from error
    with contextlib.ExitStack() as stack:
        stack.push(connection)
        take_signals_again()
        if not is_local and not is_there:
            check_nodes(open_home(config.home), plugins_in_use(config))
        yield connected


def code_to_send() -> list[str]:
    """The package's folder, if it is a checkout's, and what `plugins=[...]` names: nodes get it with the job. An
    installed wheel must be installed on the nodes as well."""
    package = Path(paretovid.__file__).parent
    own = [str(package)] if (package / "platform").is_symlink() else []
    return own + [str(path) for path in plugin_roots()]


def check_nodes(home: Home, plugins: Sequence[str] = ()) -> None:
    """Raises `UsageError` unless every node has the driver's versions and sees the home.

    Arguments:
        plugins: modules of plug-ins that every node must have, as the driver has them.
    """
    with probe_in(home) as probe:
        nodes = inspect_nodes(probe, plugins=plugins)
    problems = [problem for node in nodes for problem in problems_of(node, plugins)]
    if problems:
        raise UsageError(
            f"the cluster cannot run this sweep: {'; '.join(problems[:3])}",
            "Install the driver's versions and plug-ins on every node, and put home= on a file system that all of them "
            "see, or in a bucket that all of them have credentials for. "
            "`paretovid doctor cluster.address=…` lists every node.",
        )


def problems_of(node: NodeInfo, plugins: Sequence[str] = ()) -> Sequence[str]:
    """What keeps a node from running our trials, which need these modules of plug-ins."""
    if node.error is not None:
        return [f"{node.name} cannot be asked: {node.error}"]
    problems = [
        f"{node.name} has {difference}" for difference in version_differences(node, own_versions(plugins))
    ]
    if not node.sees_probe:
        problems.append(f"{node.name} does not see the home")
    return problems


@contextlib.contextmanager
def probe_in(home: Home) -> Iterator[str]:
    """A file in the home that exists for the block: its path, or its URL."""
    probe = home.root / f".probe-{uuid.uuid4().hex[:8]}"
    probe.write_text("?")
    home.store.upload_file(probe)
    try:
        yield str(probe) if home.url is None else f"{home.url}/{probe.name}"
    finally:
        home.store.remove(probe)
