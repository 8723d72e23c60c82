"""A plug-in for `test_secrets.py`: backbones whose weights come from URLs, and a baseline that real libraries let fail.

What each client is given stands in a variable of the environment, so that neither code nor settings hold it.
"""

from __future__ import annotations

import itertools
import logging
import os
from dataclasses import dataclass
from typing import Any, ClassVar

from first_sure import FirstSure, FirstSureConfig  # the example's, copied beside this file
from torch import nn

from paretovid.trainables.backbones.catalog import register_family
from paretovid.trainables.backbones.spec import ComponentSpec, Recipe, Weights
from paretovid.trainables.data.videos import InputSpec
from paretovid.trainables.method import register


def convolutions(spec: InputSpec, feature_width: int) -> nn.Module:
    """From a normalised picture `[B, 3, S, S]` to features `[B, D]`."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((3, 8, feature_width)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())


register_family(
    "planted",
    {
        source: ComponentSpec(
            name=f"planted_{source}@{size}",
            source=source,
            input=InputSpec(kind="frame", size=size),
            feature_width=16,
            trunk=convolutions,
            recipe=Recipe(samples=8, batch_size=8, learning_rate=1e-3),
            weights=Weights(file=f"{source}.pth", origin="the test"),
        )
        for source, size in (("coarse", 16), ("fine", 32))
    },
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakyConfig(FirstSureConfig):  # type: ignore[misc]
    """First sure's settings, and which client lets it fail."""

    client: str = "requests"


@register
class Leaky(FirstSure):  # type: ignore[misc]
    """A baseline whose training asks a server that is not there."""

    name: ClassVar[str] = "leaky"
    Config: ClassVar[type[Any]] = LeakyConfig

    def loss(self, batch: Any, progress: Any) -> Any:
        url, key = os.environ["PLANTED_LOGGED"], os.environ["WANDB_API_KEY"]
        logging.getLogger("planted").warning("asking %s once more, with the key %s", url, key)
        _ask(self.config.client)
        raise AssertionError("nobody answers there")


def _ask(client: str) -> None:
    """Raises what the client raises."""
    if client == "requests":
        import requests

        requests.get(os.environ["PLANTED_REQUESTS"], timeout=2)
    elif client == "botocore":
        import boto3
        from botocore.config import Config

        once = Config(retries={"total_max_attempts": 1}, connect_timeout=2)
        boto3.client("s3", endpoint_url=os.environ["PLANTED_BOTOCORE"], config=once).list_buckets()
    elif client == "mlflow":
        import mlflow

        mlflow.MlflowClient(tracking_uri=os.environ["PLANTED_MLFLOW"]).search_experiments()
    else:
        import urllib.request

        urllib.request.urlopen(os.environ["PLANTED_URLLIB"], timeout=2)
