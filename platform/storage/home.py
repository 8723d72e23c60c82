"""The one owner of paths: where everything that the platform keeps lies under one folder, the home.

    data/<dataset>/                        manifest.json, the videos of a built-in set
    backbones/<dataset>/<component>/
    features/<dataset>/<component>@<fingerprint>/
    sweeps/<sweep>/                        `SweepPaths`
    sweeps/<sweep>/trials/<trial>/         `TrialPaths`
    optuna.journal, mlflow.db, mlflow-artifacts/

Every path comes with the `Store` that says whether it is only a mirror of something in a bucket.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from paretovid.infra.local_copy import LocalCopy
from paretovid.infra.node_cache import node_cache
from paretovid.platform.storage.store import (
    CACHE_VARIABLE,
    BucketStore,
    LocalStore,
    Store,
    cache_folder,
    download_files,
    is_bucket,
    mirror_root,
)
from paretovid.platform.storage.trial_names import confirmed_trial
from paretovid.platform.storage.urls import check_no_secret, sqlite_url
from paretovid.trainables.data.s3 import ObjectStoreError
from paretovid.trainables.errors import UsageError
from paretovid.trainables.evaluation.results import RESULT_FILE, SCORES_FILE

HOME_VARIABLE = "PARETOVID_HOME"
DEFAULT_HOME = "paretovid-home"
SWEEP_FILE = "sweep.json"
JOURNAL_FILE = "journal.jsonl"
DRIVER_FILE = "driver.json"
TAKE_OVER_FILE = "take-over.json"
STOP_FILE = "stop.json"
TRACKED_FILE = "tracked.json"
MODEL_FILE = "model.safetensors"
ALIVE_FILE = "alive.json"
FAILURE_FILE = "failure.json"
LEARNING_FILE = "learning.json"
JUDGEMENT_FILE = "judgement.json"
OUTCOME_FILE = "outcome.json"
ERROR_FILE = "error.txt"
DOCUMENTS = frozenset(
    (
        SWEEP_FILE,
        DRIVER_FILE,
        TAKE_OVER_FILE,
        STOP_FILE,
        TRACKED_FILE,
        ALIVE_FILE,
        FAILURE_FILE,
        LEARNING_FILE,
        JUDGEMENT_FILE,
        OUTCOME_FILE,
    )
)
"""Files of a sweep that change while it runs: each is a single object in a bucket, and read there."""
RESULT_FILES = (RESULT_FILE, SCORES_FILE)
"""What of a trial's folder fronts are made from."""
_PARALLEL = 8
_LOCAL = LocalStore()


@dataclass(frozen=True, slots=True)
class TrialPaths:
    """A trial's folder. What its result is made of is committed when the trial has ended; the rest are documents."""

    folder: Path
    store: Store = _LOCAL

    @property
    def name(self) -> str:
        """The trial's."""
        return self.folder.name

    @property
    def sweep(self) -> SweepPaths:
        """The sweep that it belongs to."""
        return SweepPaths(self.folder.parent.parent, self.store)

    @property
    def result(self) -> Path:
        """Written last: a folder that has it is complete."""
        return self.folder / RESULT_FILE

    @property
    def scores(self) -> Path:
        """Of all operating points on all splits."""
        return self.folder / SCORES_FILE

    @property
    def model(self) -> Path:
        """The weights."""
        return self.folder / MODEL_FILE

    @property
    def heartbeat(self) -> Path:
        """Which process has the trial, and when it last got on."""
        return self.folder / ALIVE_FILE

    @property
    def failure(self) -> Path:
        """Why it failed for good."""
        return self.folder / FAILURE_FILE

    @property
    def learning(self) -> Path:
        """What its training has measured of itself so far."""
        return self.folder / LEARNING_FILE

    @property
    def judgement(self) -> Path:
        """What the driver has decided at its rungs."""
        return self.folder / JUDGEMENT_FILE

    @property
    def outcome(self) -> Path:
        """What the first of several workers reports to the trial that has started them."""
        return self.folder / OUTCOME_FILE

    @property
    def error(self) -> Path:
        """The traceback of its last failure."""
        return self.folder / ERROR_FILE

    def checkpoint(self, number: int) -> Path:
        """A folder."""
        return self.folder / f"checkpoint-{number:06d}"

    def upload(self) -> None:
        """Uploads and commits the result. Raises `ObjectStoreError`."""
        self.store.upload(self.folder, _is_of_result)

    def download(self, files: Sequence[str] = RESULT_FILES) -> None:
        """Brings these files of a finished trial here. What is here already is not looked up: results stay."""
        if self.store.is_remote and any(LocalCopy(self.folder).digest(name) is None for name in files):
            self.store.download(self.folder, lambda names: [name for name in names if name in files])


def _is_of_result(name: str) -> bool:
    return "/" not in name and name not in DOCUMENTS and name != ERROR_FILE


@dataclass(frozen=True, slots=True)
class SweepPaths:
    """A sweep's folder."""

    folder: Path
    store: Store = _LOCAL

    @property
    def name(self) -> str:
        """The sweep's."""
        return self.folder.name

    @property
    def home_root(self) -> Path:
        """The root of the home that it lies in."""
        return self.folder.absolute().parents[1]

    @property
    def record(self) -> Path:
        """What the sweep is and how far it came."""
        return self.folder / SWEEP_FILE

    @property
    def journal(self) -> Path:
        """What happened, line by line."""
        return self.folder / JOURNAL_FILE

    @property
    def lease(self) -> Path:
        """Which driver has the sweep, and its heartbeat."""
        return self.folder / DRIVER_FILE

    @property
    def take_over(self) -> Path:
        """Another driver's request for the lease."""
        return self.folder / TAKE_OVER_FILE

    @property
    def driver_lock(self) -> Path:
        """Locked by the driver, for the processes of its machine."""
        return self.folder / ".driver.lock"

    @property
    def launch_lock(self) -> Path:
        """Locked while trials run, for the processes of the driver's machine."""
        return self.folder / ".lock"

    @property
    def stop(self) -> Path:
        """There while the driver asks all trials to end."""
        return self.folder / STOP_FILE

    @property
    def tracked(self) -> Path:
        """How much of the journal MLflow has been sent."""
        return self.folder / TRACKED_FILE

    @property
    def ray(self) -> Path:
        """What Ray writes of a run."""
        return self.folder / "ray"

    @property
    def trials(self) -> Path:
        """The trials' folders."""
        return self.folder / "trials"

    def trial(self, name: str) -> TrialPaths:
        """A trial's folder."""
        return TrialPaths(self.trials / name, self.store)

    def with_result(self) -> list[TrialPaths]:
        """The finished trials that are here, by name; trainings that confirm one are not among them."""
        return [trial for trial in self._trials_with(RESULT_FILE) if not confirmed_trial(trial.name)]

    def with_failure(self) -> list[TrialPaths]:
        """The same of trials that are known here to have failed for good."""
        return [trial for trial in self._trials_with(FAILURE_FILE) if not confirmed_trial(trial.name)]

    def confirmations(self) -> list[TrialPaths]:
        """The finished trainings that confirm a trial, by name."""
        return [trial for trial in self._trials_with(RESULT_FILE) if confirmed_trial(trial.name)]

    def failed_confirmations(self) -> list[TrialPaths]:
        """The trainings that were to confirm a trial and are known here to have failed for good, by name."""
        return [trial for trial in self._trials_with(FAILURE_FILE) if confirmed_trial(trial.name)]

    def with_judgement(self) -> list[TrialPaths]:
        """The trials that are known here to have been judged at a rung, by name."""
        return self._trials_with(JUDGEMENT_FILE)

    def with_heartbeat(self) -> list[TrialPaths]:
        """The trials that are known here to be running, by name."""
        return self._trials_with(ALIVE_FILE)

    def _trials_with(self, file: str) -> list[TrialPaths]:
        return [TrialPaths(path.parent, self.store) for path in sorted(self.trials.glob(f"*/{file}"))]

    def siblings(self) -> list[str]:
        """Names of all sweeps of the home, sorted."""
        return _sweep_names(self.folder.parent, self.store)

    def refresh(self, files: Sequence[str] = RESULT_FILES) -> None:
        """Brings the sweep here: its documents, its journal, and of each finished trial these files.

        Learning curves are read where they are: every trial has one, and hardly anybody asks for it.
        """
        if not self.store.is_remote:
            return
        listing = self.store.listing(self.folder)
        documents = [
            name
            for name in listing.files
            if name.rpartition("/")[2] in DOCUMENTS - {LEARNING_FILE} and not name.startswith("ray/")
        ]
        for pattern in ("*.json", "trials/*/*.json"):
            for path in self.folder.glob(pattern):
                if path.name in DOCUMENTS and path.relative_to(self.folder).as_posix() not in listing.files:
                    path.unlink(missing_ok=True)
        download_files(self.store, [self.folder / name for name in documents])
        finished = [
            name.removeprefix("trials/")
            for name in listing.complete
            if name.startswith("trials/") and name.count("/") == 1
        ]
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda trial: self.trial(trial).download(files), finished))
        # This machine's own may be ahead of what it has uploaded.
        here = self.journal.stat().st_size if self.journal.exists() else 0
        if listing.files.get(JOURNAL_FILE, 0) > here:
            self.store.download_file(self.journal)

    def reference(self, cache: str | None = None) -> HomeReference:
        """The home, for workers on other nodes. `cache`: as in `HomeReference`."""
        return _reference(self.folder, self.store, cache)


def _sweep_names(sweeps: Path, store: Store) -> list[str]:
    if store.is_remote:
        download_files(store, [sweeps / name / SWEEP_FILE for name in store.folders(sweeps)])
    return sorted(path.parent.name for path in sweeps.glob(f"*/{SWEEP_FILE}"))


@dataclass(frozen=True, slots=True)
class Home:
    """Paths under `root`. Nothing is made here; whoever writes makes the folder."""

    root: Path
    """Where the store is a bucket: of this machine's mirror of it."""
    store: Store = _LOCAL

    @property
    def url(self) -> str | None:
        """Of the bucket that it is in; None for a folder."""
        return self.store.url

    @property
    def in_commands(self) -> str:
        """What a printed command needs behind it to find this home, ` home=PLACE`; "" where it is the usual one."""
        usual = os.environ.get(HOME_VARIABLE) or DEFAULT_HOME
        place = self.url or str(self.root)
        known = usual.rstrip("/") if is_bucket(usual) else str(Path(usual).expanduser().absolute())
        return "" if place == known else f" {shlex.quote(f'home={place}')}"

    def data(self, dataset: str) -> Path:
        """A data set's manifest, and the videos of a built-in one."""
        return self.root / "data" / dataset

    def backbone(self, dataset: str, component: str) -> Path:
        """A backbone trained on a data set: safetensors and JSON."""
        return self.root / "backbones" / dataset / component

    def features(self, dataset: str) -> Path:
        """A data set's features, one folder `<component>@<fingerprint>` each."""
        return self.root / "features" / dataset

    def backbone_folders(self) -> list[Path]:
        """Those of all data sets that are here, sorted; what a training of weights keeps beside them is none."""
        found = (self.root / "backbones").glob("*/*/")
        return sorted(folder for folder in found if not folder.name.startswith("."))

    def feature_folders(self) -> list[Path]:
        """Those of all data sets that are here, sorted."""
        return sorted((self.root / "features").glob("*/*@*/"))

    @property
    def sweeps(self) -> Path:
        """All sweeps."""
        return self.root / "sweeps"

    def sweep(self, name: str) -> SweepPaths:
        """A sweep."""
        return SweepPaths(self.sweeps / name, self.store)

    def sweep_names(self) -> list[str]:
        """Names of all sweeps, sorted. Their records are here then."""
        return _sweep_names(self.sweeps, self.store)

    def trial(self, sweep: str, trial: str) -> TrialPaths:
        """A trial of a sweep."""
        return self.sweep(sweep).trial(trial)

    def reference(self, cache: str | None = None) -> HomeReference:
        """The home, for workers on other nodes. `cache`: as in `HomeReference`."""
        return _reference(self.root, self.store, cache)

    @property
    def optuna_url(self) -> str:
        """Storage of the studies, as `search/storage.py` takes it: a file that is only ever appended to, or the
        place in the bucket under which each study has one."""
        return f"{self.url}/studies" if self.url else f"journal://{self.root / 'optuna.journal'}"

    @property
    def mlflow_url(self) -> str:
        """MLflow's embedded tracking and registry store."""
        return sqlite_url(self.mlflow_database)

    @property
    def mlflow_database(self) -> Path:
        """The file behind it."""
        return self.root / "mlflow.db"

    @property
    def mlflow_lock(self) -> Path:
        """Locked by whoever makes the store, or a model version in it."""
        return self.root / "mlflow.lock"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's embedded artifact store."""
        return self.root / "mlflow-artifacts"


@dataclass(frozen=True, kw_only=True)
class HomeReference:
    """A home as a worker on another node is given it: small, and without a connection. The worker opens it there."""

    url: str | None
    root: Path
    """Of the driver's mirror."""
    cache: str | None = None
    """Folder of mirrors on the workers' nodes, unless a node names its own; None: the user's cache folder."""

    def __reduce__(self) -> Any:
        return _reference_of, (self.url, self.root, self.cache)

    @cached_property
    def home(self) -> Home:
        """The home on this node, opened once per reference. Raises `ObjectStoreError` if it cannot be used."""
        if self.url is None:
            return Home(self.root)
        store = BucketStore.open(self.url, node_cache(self.cache))
        return Home(store.root, store)

    def here(self, path: Path | str) -> Path:
        """A path of the driver's mirror as one of this node's."""
        if self.url is None:
            return Path(path)
        return mirror_root(self.url, node_cache(self.cache)) / Path(path).relative_to(self.root)

    def sweep(self, folder: Path | str) -> SweepPaths:
        """A sweep on this node. `folder`: the driver's."""
        return SweepPaths(self.here(folder), self.home.store)

    def trial(self, folder: Path | str) -> TrialPaths:
        """A trial on this node. `folder`: the driver's."""
        return TrialPaths(self.here(folder), self.home.store)


def _reference_of(url: str | None, root: Path, cache: str | None) -> HomeReference:
    return HomeReference(url=url, root=root, cache=cache)


def _reference(folder: Path, store: Store, cache: str | None) -> HomeReference:
    root = store.root if isinstance(store, BucketStore) else folder
    return HomeReference(url=store.url, root=root, cache=cache)


def some_of_dataset(names: Collection[str]) -> list[str]:
    """Of the files of a data set in a bucket, what loading it needs: its descriptions and one video."""
    described = [name for name in names if name.endswith(".json")]
    return described + sorted(set(names) - set(described))[:1]


def open_home(override: str | None = None, *, is_there: bool = False, to_read: bool = False) -> Home:
    """The home at `override`, else at `PARETOVID_HOME`, else `./paretovid-home`; made if it is missing.

    Arguments:
        is_there: make none.
        to_read: nothing will be written: one that is there need not be writable, and none is made.

    A home `s3://BUCKET/PREFIX` is tried for all that is needed of it.

    Raises `UsageError` if it cannot be made or written, or is missing and not to be made, and for a URL with a secret
    in it.
    """
    check_no_secret(override, "home")
    check_no_secret(os.environ.get(HOME_VARIABLE), HOME_VARIABLE)
    given = override or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME
    if is_bucket(given):
        return _open_bucket(given)
    root = Path(given).expanduser().absolute()
    if is_there and not root.is_dir():
        raise UsageError(f"there is no home {root}", f"Name the folder: home=FOLDER, or {HOME_VARIABLE}.")
    if to_read:
        return Home(root)
    hint = f"Choose a folder that you can write: home=FOLDER, or the variable {HOME_VARIABLE}."
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Trying is the only answer that counts: modes show neither read-only mounts nor root's rights.
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UsageError(f"home {root} cannot be written: {error.strerror or error}", hint) from error
    return Home(root)


def _open_bucket(url: str) -> Home:
    try:
        store = BucketStore.open(url, check=True)
        return Home(store.root, store)
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
