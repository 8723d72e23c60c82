"""Which sweep a configuration is, and what it resumes with, where URLs have signatures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from paretovid.platform.config.load import load_sweep_config
from paretovid.platform.records.sweep import known_record, write_record
from paretovid.platform.storage.home import Home
from paretovid.platform.sweeps.naming import name_of, started_record, stored_config
from paretovid.trainables.errors import UsageError

URL = "https://host/x.pth"
SECRET = "c2VjcmV0-4711"


def words(signature: str, url: str = URL) -> list[str]:
    fine = f"backbones.weights.fine='{url}?X-Amz-Signature={signature}'"
    return ["backbones=paper", "backbones.weights.coarse=a.pth", fine]


@pytest.fixture
def started(tmp_path: Path) -> Home:
    """A home with a sweep `s` that was started with signed weights."""
    home = Home(tmp_path)
    config = load_sweep_config(["name=s", *words(SECRET)])
    record = started_record(config, "s", None)
    write_record(home.sweep("s"), replace(record, error=f"https://host/x?sig={SECRET} is gone"))
    return home


def test_the_record_has_no_signature(started: Home) -> None:
    text = started.sweep("s").record.read_text()
    assert SECRET not in text and URL in text
    assert known_record(started.sweep("s")).error == "https://host/x is gone"


@pytest.mark.slow
def test_it_is_the_same_sweep_with_a_fresh_signature(started: Home) -> None:
    assert name_of(started, load_sweep_config(["name=s", *words("fresh")])) == "s"
    with pytest.raises(UsageError, match="sweep s exists with other settings") as raised:
        name_of(started, load_sweep_config(["name=s", *words(SECRET, "https://host/y.pth")]))
    assert SECRET not in str(raised.value)


@pytest.mark.slow
def test_it_resumes_with_a_fresh_signature(started: Home) -> None:
    config = stored_config(started, "s", None, [])
    assert config.backbones.weights["fine"] == URL, "from the file that PARETOVID_SIGNED_URLS names"
    fine = words("fresh")[-1]
    assert stored_config(started, "s", None, [fine]).backbones.weights["fine"].endswith("=fresh")
    with pytest.raises(
        UsageError, match=r"backbones\.weights\.fine was https://host/x\.pth, and is now"
    ) as e:
        stored_config(started, "s", None, [words(SECRET, "https://host/y.pth")[-1]])
    assert SECRET not in str(e.value)


def test_a_record_of_an_earlier_version_is_read_without_its_signature(started: Home) -> None:
    path = started.sweep("s").record
    data = json.loads(path.read_text())
    data["config"]["backbones"]["weights"]["fine"] = f"{URL}?X-Amz-Signature={SECRET}"
    path.write_text(json.dumps(data))
    assert SECRET not in str(known_record(started.sweep("s")))
    assert name_of(started, load_sweep_config(["name=s", *words("fresh")])) == "s"
