"""Secrets are refused in every setting and variable that is recorded, and never repeated."""

from __future__ import annotations

import pytest

from paretovid.platform.cli.main import main
from paretovid.platform.config.load import load_sweep_config, plain_settings, to_record
from paretovid.platform.config.resolve import resolve_preparation
from paretovid.platform.registry.promotion import promote
from paretovid.platform.storage.home import HOME_VARIABLE, Home, open_home
from paretovid.platform.storage.urls import check_no_secret
from paretovid.platform.tracking.store import store_uri
from paretovid.trainables.errors import UsageError

SECRET = "c2VjcmV0-4711"
SIGNED = "https://host/x.pth?X-Amz-Signature="
PAPER = ["backbones=paper", "backbones.weights.coarse=a.pth"]


@pytest.mark.parametrize(
    "word",
    [
        f"search.storage='postgresql://me:{SECRET}@host/x'",
        f"search.storage='postgresql://host/x?user=me&password={SECRET}'",
        f"search.storage='postgresql://host/x?sslpassword={SECRET}'",
        f"search.storage='postgresql://me:{SECRET} x@host/x'",
        f"search.storage='host=h password={SECRET} user=u'",
        f"search.storage='me:{SECRET}@host/x'",
        f"tracking.uri='//me:{SECRET}@host/x'",
        f"tracking.uri='me:{SECRET}@host:5000'",
        f"cluster.address='head:6379 token={SECRET}'",
        f"home='//key:{SECRET}@bucket/home'",
        f"tracking.uri='https://me:{SECRET}@host'",
        f"tracking.uri='https://ghp_{SECRET}@host'",
        f"tracking.uri='https://host/?token={SECRET}'",
        f"tracking.uri='https://host/?{SECRET}'",
        f"home='s3://key:{SECRET}@bucket/home'",
        f"cluster.address='ray://me:{SECRET}@head:10001'",
        f"cluster.node_cache='s3://bucket/cache?sig={SECRET}'",
        f"backbones.weights.fine='https://me:{SECRET}@host/x.pth'",
        f"data.annotations='https://me:{SECRET}@host/x.csv'",
        f"training.note='{SIGNED}{SECRET}'",
        f"method.model.selector='{SIGNED}{SECRET}'",
        f"method.published='[{{gamma: \"https://me:{SECRET}@h\"}}]'",
        f"name='https://me:{SECRET}@host'",
        f"plugins=['https://me:{SECRET}@host']",
        f"data='https://me:{SECRET}@host'",
        f"search.trials='https://me:{SECRET}@host'",
        f"search.trials='{SIGNED}{SECRET}',2",
        f"search.storage=postgresql://me:[{SECRET} x@host/x",
        f"serch.storage='https://me:{SECRET}@host'",
    ],
)
def test_no_setting_takes_a_secret_or_repeats_it(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--dry-run", word]) == 2
    shown = "".join(capfd.readouterr())
    assert SECRET not in shown and "hint: " in shown


@pytest.mark.parametrize(
    "text",
    [
        None,
        "home",
        "/a?b=c",
        "postgresql+psycopg2://USER@HOST/x?sslmode=require",
        "http://mlflow:5000",
        "s3://bucket/home",
        "sqlite:////a/b.db",
        "models:/digits@champion",
        "registry/image:1.2@sha256:0a1b",
        "//host/share/10:30.mp4",
        "https://host/x.pth",
    ],
)
def test_a_user_name_alone_is_allowed(text: str | None) -> None:
    check_no_secret(text, "search.storage")


def test_variables_are_refused_too(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv(HOME_VARIABLE, f"s3://key:{SECRET}@bucket")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://me:{SECRET}@host")
    home = Home(tmp_path)
    for opened in (open_home, lambda: store_uri(home), lambda: store_uri(home, f"https://h/?token={SECRET}")):
        with pytest.raises(UsageError, match="settings are recorded") as raised:
            opened()
        assert SECRET not in str(raised.value)


def test_signed_weights_are_taken_and_recorded_without_the_signature() -> None:
    one, other = (
        load_sweep_config([*PAPER, f"backbones.weights.fine='{SIGNED}{signature}'"])
        for signature in (SECRET, "another")
    )
    assert resolve_preparation(one).backbones.weights["fine"] == f"{SIGNED}{SECRET}"
    assert SECRET in str(plain_settings(one)) and SECRET not in str(to_record(one))
    assert to_record(one) == to_record(other), "the same settings"
    assert "'fine': 'https://host/x.pth'" in str(to_record(one))


def test_a_query_that_may_name_another_file_needs_the_files_digest() -> None:
    words = [*PAPER, f"backbones.weights.fine='https://host/get?id={SECRET}'"]
    with pytest.raises(UsageError, match=r"the query of backbones\.weights\.fine") as raised:
        resolve_preparation(load_sweep_config(words))
    assert SECRET not in str(raised.value) and "backbones.sha256.fine=DIGEST" in raised.value.hint
    resolve_preparation(load_sweep_config([*words, f"backbones.sha256.fine={'0' * 64}"]))


def test_a_name_may_be_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0a1b2c3d4e5f")
    for name in ("ghp_4711c2VjcmV0c2VjcmV0", "hf_4711c2VjcmV0c2VjcmV0", "0a1b2c3d4e5f"):
        for word in (f"name={name}", f"data.name={name}"):
            with pytest.raises(UsageError, match="is a token, or the value of a secret variable") as raised:
                load_sweep_config([word])
            assert name not in f"{raised.value} {raised.value.hint}"
        for model, alias in ((name, None), ("m", name)):
            with pytest.raises(UsageError, match="is a token"):
                promote(Home(tmp_path), "s", name=model, alias=alias)
    for name in ("sk-learn-baseline-of-july", "hf_models", "experiment20261128run5of7withall"):
        assert load_sweep_config([f"name={name}"]).name == name
