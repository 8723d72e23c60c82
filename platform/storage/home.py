"""The one owner of paths: where everything that the platform keeps lies under one folder, the home."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from paretovid.platform.storage.mirror import CACHE_VARIABLE, attach, cache_folder, is_bucket
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.errors import UsageError

HOME_VARIABLE = "PARETOVID_HOME"
DEFAULT_HOME = "paretovid-home"


@dataclass(frozen=True, slots=True)
class Home:
    """Paths under `root`. Nothing is made here; whoever writes makes the folder."""

    root: Path
    url: str | None = None
    """Of the bucket that it is in; `root` is this machine's mirror of it (`mirror.py`)."""

    def data(self, dataset: str) -> Path:
        """A data set's manifest, and the videos of a built-in one."""
        return self.root / "data" / dataset

    def backbone(self, dataset: str, component: str) -> Path:
        """A backbone trained on a data set: safetensors and JSON."""
        return self.root / "backbones" / dataset / component

    def features(self, dataset: str) -> Path:
        """A data set's features, one folder `<component>@<fingerprint>` each."""
        return self.root / "features" / dataset

    @property
    def sweeps(self) -> Path:
        """All sweeps."""
        return self.root / "sweeps"

    def sweep(self, name: str) -> Path:
        """A sweep: `sweep.json`, `trials/`, and what Ray writes."""
        return self.sweeps / name

    def trial(self, sweep: str, trial: str) -> Path:
        """A trial's result, scores, model and checkpoint."""
        return self.sweep(sweep) / "trials" / trial

    @property
    def optuna_url(self) -> str:
        """Storage of the studies, as `search/storage.py` takes it: a file that is only ever appended to, or the
        place in the bucket under which each study has one."""
        return f"{self.url}/studies" if self.url else f"journal://{self.root / 'optuna.journal'}"

    @property
    def mlflow_url(self) -> str:
        """MLflow's embedded tracking and registry store."""
        return f"sqlite:///{self.mlflow_database}"

    @property
    def mlflow_database(self) -> Path:
        """The file behind it."""
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's embedded artifact store."""
        return self.root / "mlflow-artifacts"


def open_home(override: str | None = None, *, is_there: bool = False) -> Home:
    """The home at `override`, else at `PARETOVID_HOME`, else `./paretovid-home`; made if it is missing.

    Arguments:
        is_there: make none.

    A home `s3://BUCKET/PREFIX` is tried for all that is needed of it.

    Raises `UsageError` if it cannot be made or written, or is missing and not to be made.
    """
    stated = override or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME
    if is_bucket(stated):
        return _open_bucket(stated)
    root = Path(stated).expanduser().absolute()
    if is_there and not root.is_dir():
        raise UsageError(f"there is no home {root}", f"Name the folder: home=FOLDER, or {HOME_VARIABLE}.")
    hint = f"Choose a folder that you can write: home=FOLDER, or the variable {HOME_VARIABLE}."
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Trying is the only answer that counts: modes do not tell of read-only mounts or of root's rights.
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UsageError(f"home {root} cannot be written: {error.strerror or error}", hint) from error
    return Home(root)


def _open_bucket(url: str) -> Home:
    try:
        return Home(attach(url, check=True), url.rstrip("/"))
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a home in a bucket needs {error.name}, which is not installed", "pip install 'paretovid[s3]'"
        ) from error
    except ObjectStoreError as error:
        raise UsageError(f"home {url}: {error.message}", error.hint) from error
    except OSError as error:
        raise UsageError(
            f"the mirror of {url} cannot be written in {cache_folder()}: {error.strerror or error}",
            f"Name another folder: {CACHE_VARIABLE}.",
        ) from error
