"""What was measured of one operating point on one split: the one form of it, from the worker to the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paretovid.trainables.documents import Fields, JsonValue

MAP = "map"
"""The objective of classification, and of results that name none."""
_QUALITY = "map"
"""Qualities are all mAP of some kind, and named so."""
_OVERLAPS = "map_iou_"
_FURTHER = ("map_charades", "map_category_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What one operating point reached on one split of N videos. Qualities are fractions, costs GFLOPs per video.

    mAPs without an overlap and top-1 are of whole videos, also where the task is localization.
    """

    objective: str
    """The name of the quality that decides: `map`, `map_iou_0.1_0.7`."""
    qualities: Mapping[str, float]
    """By name. `map`, `map_present`, `map_interpolated`; of localization also `map_iou_0.5` for each overlap and
    their mean `map_iou_0.1_0.7`; of sets with several labels a video `map_charades`, `map_category_<name>`."""
    top1: float
    gflops: float
    """Mean over videos."""
    gflops_std: float
    gflops_p95: float
    calls: Mapping[str, float]
    """Component to its mean calls per video."""
    usage: float | None = None
    """Share of the steps that were read more closely than by the cheapest source, mean over videos."""
    usage_std_over_mean: float | None = None
    videos: int | None = None
    """N."""
    stopped_by: Mapping[str, float] | None = None
    """Share of the videos whose reading ended for each reason (`caps.STOPPED_BY`); None of a method that does not read
    by the step."""

    @property
    def quality(self) -> float:
        """The objective's value, the only way to it: what fronts, choices and gates go by.

        Raises `KeyError` if the objective was not measured; no document is read or written without it.
        """
        return self.qualities[self.objective]

    @property
    def overlaps(self) -> dict[str, float]:
        """Of localization: mAP of the instances by overlap (`map_iou_0.5`) and its mean."""
        return {name: value for name, value in self.qualities.items() if name.startswith(_OVERLAPS)}

    @property
    def further(self) -> dict[str, float]:
        """Of sets with several labels a video: `map_charades`, `map_category_<name>`."""
        return {name: value for name, value in self.qualities.items() if name.startswith(_FURTHER)}

    def numbers(self) -> dict[str, float]:
        """What is compared and tracked, by name: qualities, top-1, costs and the spread of the usage."""
        values = {**self.qualities, "top1": self.top1}
        values |= {"gflops": self.gflops, "gflops_std": self.gflops_std, "gflops_p95": self.gflops_p95}
        if self.usage_std_over_mean is not None:
            values["usage_std_over_mean"] = self.usage_std_over_mean
        return values

    def to_json(self) -> dict[str, JsonValue]:
        """Plain data, qualities beside the other figures; `from_json` reads it."""
        numbers = self.numbers()
        optional = {"usage": self.usage, "videos": self.videos}
        return {
            **numbers,
            "calls": dict(self.calls),
            **{name: value for name, value in optional.items() if value is not None},
            **({} if self.stopped_by is None else {"stopped_by": dict(self.stopped_by)}),
        }

    @classmethod
    def from_json(cls, data: Fields, objective: str) -> Metrics:
        """What `to_json` wrote. The result that it is part of states the objective.

        Raises `DataError` for a figure that is missing, the objective's among them, of the wrong type, or none that can
        be measured (a quality above 1, a cost below 0), and `NonFiniteError` for one that is not finite.
        """
        required = {MAP, "map_present", "map_interpolated", objective}
        named = {*required, *(name for name in data.names() if name.startswith(f"{_QUALITY}_"))}
        order = [name for name in data.names() if name in named]
        qualities = {name: data.fraction(name) for name in [*order, *sorted(required.difference(order))]}
        return cls(
            objective=objective,
            qualities=qualities,
            top1=data.fraction("top1"),
            gflops=data.amount("gflops"),
            gflops_std=data.amount("gflops_std"),
            gflops_p95=data.amount("gflops_p95"),
            calls=data.amounts_by_name("calls"),
            usage=data.optional_number("usage"),
            usage_std_over_mean=data.optional_number("usage_std_over_mean"),
            videos=data.count("videos") if "videos" in data else None,
            stopped_by=data.number_by_name("stopped_by") if "stopped_by" in data else None,
        )
