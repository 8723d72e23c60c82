"""The features that a trial trains on and is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from paretovid.trainables.data.dataset import Dataset, VideoRecord
from paretovid.trainables.features.store import FeatureSplit, FeatureStore, load_padded


@final
class _Data:
    """The data set with the features that a method reads."""

    def __init__(self, dataset: Dataset, stores: Mapping[str, FeatureStore]) -> None:
        self.dataset = dataset
        self.stores = stores

    @property
    def components(self) -> dict[str, str]:
        """Source to component."""
        return {source: store.component for source, store in self.stores.items()}

    @property
    def widths(self) -> dict[str, int]:
        """Source to the width of its features."""
        return {source: store.width for source, store in self.stores.items()}

    def records(self, split: str) -> list[VideoRecord]:
        """Videos of a split that have features: one that could not be decoded has none."""
        first = next(iter(self.stores.values()))
        return [record for record in self.dataset.split(split) if record.video_id in first]

    def load(self, records: list[VideoRecord]) -> FeatureSplit:
        return load_padded(self.stores, records, self.dataset)

    def batches(self, split: str, size: int = 256) -> Iterator[FeatureSplit]:
        records = self.records(split)
        for start in range(0, len(records), size):
            yield self.load(records[start : start + size])
