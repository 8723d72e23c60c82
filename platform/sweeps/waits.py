"""What a sweep waits for, in words, from its journal."""

from __future__ import annotations

from collections.abc import Sequence

from paretovid.platform.console.shell import typed
from paretovid.platform.records.journal import Entry, FailedStart


def waits_of(
    name: str,
    in_commands: str,
    state: str,
    entries: Sequence[Entry],
    to_come: int,
    num_running: int,
    untracked: int,
    confirmations: int = 0,
) -> list[str]:
    """What a sweep in a state waits for, a line each.

    Arguments:
        in_commands: as `Home.in_commands`.
        to_come: trials that were not started.
        untracked: events that MLflow was not notified of.
        confirmations: trainings with other seeds that were not started.
    """
    waits = []
    if state == "running" and not num_running and to_come > 0:
        waits.append(f"{to_come} trials for the cluster, or for videos, backbones and features")
    elif state == "running" and to_come > 0:
        waits.append(f"{to_come} trials for one of {num_running} places")
    elif state != "finished" and to_come > 0:
        waits.append(f"{to_come} trials for somebody: {typed('paretovid', 'resume', name)}{in_commands}")
    if confirmations and state != "running":
        resume = typed("paretovid", "resume", name) + in_commands
        waits.append(f"{confirmations} trainings with other seeds for somebody: {resume}")
    if untracked:
        replay = typed("paretovid", "replay", name) + in_commands
        waits.append(f"{untracked} events for MLflow ({replay}, if nobody runs the sweep)")
    open_faults: dict[str, str] = {}
    for entry in entries:
        if entry.event == "fault" and (failed := FailedStart.in_entry(entry)).will_retry:
            open_faults[entry.trial] = failed.reason
        elif entry.event in ("start", "finish"):
            open_faults.pop(entry.trial, None)
    waits += [f"{host} for its storage, and takes no trials: {why}" for host, why in _away(entries).items()]
    waits += [f"{trial} for another start, after: {reason}" for trial, reason in open_faults.items()]
    return waits


def _away(entries: Sequence[Entry]) -> dict[str, str]:
    """Nodes that take no trials of the last driver, and why."""
    away: dict[str, str] = {}
    for entry in entries:
        if entry.event == "driver" or entry.event == "state":
            away.clear()
        elif entry.event == "node":
            host = f"{entry.fields.text('host', '')} ({entry.fields.text('node', '')[:6]})"
            why = entry.info.get("away")
            if why is None:
                away.pop(host, None)
            else:
                away[host] = str(why)
    return away
