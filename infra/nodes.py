"""What the nodes of a cluster are, asked of each of them: versions, clock, space, and what they see of the disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

INSPECTION_SECONDS = 60.0
COMPARED = ("python", "ray", "torch", "paretovid", "code")
"""What must be the same on the driver and on every node, and so must plug-ins."""
PLUGIN = "plug-in "
"""Before the module of one, among versions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeInfo:
    """One node."""

    name: str
    """Host name and the first digits of Ray's id."""
    resources: Mapping[str, float]
    versions: Mapping[str, str]
    """`python`, `ray`, `torch`, `paretovid`, `code`, a digest of paretovid's files, and `plug-in MODULE` for each that
    was asked for; missing ones left out."""
    clock_offset_seconds: float = 0.0
    """How far its clock is ahead of the driver's, to half of the round trip."""
    free_bytes: int = 0
    """On the disk of its temporary files."""
    sees_probe: bool = True
    """Whether it reads the probe file that the driver has written."""
    error: str | None = None
    """Why it could not be asked."""


def inspect_nodes(
    probe: str | None = None, seconds: float = INSPECTION_SECONDS, *, plugins: Sequence[str] = ()
) -> list[NodeInfo]:
    """Asks every living node. Ray must be connected.

    Arguments:
        probe: path of a file that all nodes should see.
        plugins: modules of the plug-ins that all nodes must have; they are imported there.
        seconds: after which a node that does not answer counts as one that cannot be asked.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[_on(strategy, _inspection()).remote(probe, plugins)] = node
    until = time.monotonic() + seconds
    return [_info(reference, node, until) for reference, node in asked.items()]


def _on(strategy: Any, function: Any) -> Any:
    make: Any = ray.remote
    return make(num_cpus=0, max_retries=1, scheduling_strategy=strategy)(function)


def _info(reference: Any, node: Mapping[str, Any], until: float) -> NodeInfo:
    name = f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"
    try:
        found = ray.get(reference, timeout=max(0.1, until - time.monotonic()))
    except Exception as error:  # what a worker cannot import or start comes in many types
        reason = (str(error) or type(error).__name__).strip().splitlines()[-1]
        return NodeInfo(name=name, resources=node["Resources"], versions={}, error=reason)
    return NodeInfo(
        name=name,
        resources=node["Resources"],
        versions=found["versions"],
        clock_offset_seconds=_clock_offset(node["NodeID"]),
        free_bytes=found["free_bytes"],
        sees_probe=found["sees_probe"],
        error=found["error"],
    )


def _clock_offset(node_id: str) -> float:
    """Asked of a worker that is up already, so that the round trip is short."""
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    remote = _on(strategy, lambda: time.time())
    offsets = []
    for _ in range(3):
        before = time.time()
        there: float = ray.get(remote.remote())
        after = time.time()
        offsets.append((after - before, there - (before + after) / 2))
    return min(offsets)[1]


def own_versions(plugins: Sequence[str] = ()) -> dict[str, str]:
    """Those of this process, and of the modules of plug-ins in it."""
    versions: dict[str, str] = _inspection()(None, plugins)["versions"]
    return versions


def version_differences(node: NodeInfo, mine: Mapping[str, str]) -> list[str]:
    """`torch 2.1 (here 2.0)` for each that differs."""
    return [
        f"{name} {node.versions.get(name, 'missing')} (here {mine.get(name, 'missing')})"
        for name in (*COMPARED, *sorted(name for name in mine if name.startswith(PLUGIN)))
        if node.versions.get(name) != mine.get(name)
    ]


def _inspection() -> Any:
    """The function that runs on a node. Made here, so that it travels by value: a node that has not installed
    paretovid must be able to say so."""

    def sees(probe: str) -> bool:
        from pathlib import Path

        if not probe.startswith("s3://"):
            return Path(probe).exists()
        try:
            from paretovid.infra.object_store import ObjectStore

            folder, _, name = probe.rpartition("/")
            return ObjectStore(folder, patience=5.0).read(name) is not None
        except (ImportError, OSError):
            return False

    def inspect(probe: str | None, plugins: Sequence[str] = ()) -> dict[str, Any]:
        import importlib.metadata
        import shutil
        import sys
        import tempfile

        error = None
        versions = {"python": sys.version.split()[0]}
        for name in ("ray", "torch"):
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        try:
            import paretovid
            from paretovid.trainables.errors import ParetovidError
            from paretovid.trainables.plugins.catalog import plugin_version, use_requested_plugins
            from paretovid.trainables.provenance import code_version

            versions["paretovid"] = paretovid.__version__
            versions["code"] = code_version()
            try:
                use_requested_plugins()
                for module in plugins:
                    if (version := plugin_version(module)) is not None:
                        versions[f"{PLUGIN}{module}"] = version
            except (
                ParetovidError
            ) as unusable:  # one of plugins=[...] that is not there, or one that does not import
                error = unusable.message
        except ImportError:
            pass
        return {
            "versions": versions,
            "free_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
            "sees_probe": probe is None or sees(probe),
            "error": error,
        }

    return inspect
