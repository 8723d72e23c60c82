"""The front for people: a table for the terminal, a picture, and a page with hover.

Quality (mAP) is shown in percent, cost in GFLOPs per video, which are giga multiply-accumulates here.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretovid.platform.fronts.front import Front, FrontPoint
from paretovid.platform.fronts.page import TEMPLATE
from paretovid.platform.records.trial import knob_text, objective_text
from paretovid.platform.storage.trial_names import confirmation_name
from paretovid.trainables.data.partial_files import partial_file
from paretovid.trainables.documents import JsonValue
from paretovid.trainables.evaluation.pareto import non_dominated, thinned

AXIS_COST = "GFLOPs per video (multiply-accumulates)"
TABLE_ROWS = 12
LOG_FROM_RATIO = 12
"""From this ratio of most expensive to cheapest on, the cost axis is logarithmic."""
_COLOURS = ("#b35806", "#7b3294", "#636363", "#01665e", "#c51b7d", "#e08214", "#1b7837", "#8073ac")
_FRONT_COLOUR = "#1f5fa8"


def knobs_text(point: FrontPoint) -> str:
    """The point's knobs in one line: `gamma=0.1 lambda=2 | gate_offset=-1`."""

    def joined(knobs: Mapping[str, float | str]) -> str:
        return " ".join(f"{name}={knob_text(value)}" for name, value in knobs.items())

    parts = (joined(point.trial.training_knobs), joined(point.record.inference_knobs))
    return " | ".join(part for part in parts if part)


def front_table(front: Front, rows: int = TABLE_ROWS) -> str:
    """The front beside its baselines, as a table of at most `rows` points of the front."""
    chosen = front.front
    order = thinned([p.record.val.gflops for p in chosen], [p.record.val.quality for p in chosen], rows)
    best = _yardstick(front)
    head = ["", "point", f"{objective_text(front.objective)} %", "95 % interval", "top-1 %", "GFLOPs ± std"]
    head += [f"vs {best.name}", "at equal cost"] if best else []
    table = [[*head, "knobs"]]
    table += [_row(front, chosen[i], best) for i in order]
    lines = _aligned(table)
    if front.baselines:
        lines += ["", "Baselines (each at its best on validation)"]
        lines += _aligned([[*head, "setting"], *(_row(front, p, best) for p in front.best_baselines())])
    lines += _confirmed(front)
    lines += ["", *_legend(front, len(chosen) - len(order)), *_warnings(front)]
    return "\n".join([*_title(front, len(chosen)), "", *lines])


def _confirmed(front: Front) -> list[str]:
    """The points under other seeds, and what has to be known of these; nothing if no point is to be confirmed."""
    points = [(p, p.confirmation) for p in front.confirmed if p.confirmation is not None]
    if not points:
        return []
    quality = objective_text(front.objective)
    rows = [["", "point", "chosen", f"{quality} %", "over videos", "GFLOPs", f"{quality} % of each seed"]]
    said: list[str] = []
    for p, found in points:
        several = f"{p.trial.sweep}/" if len(front.sweeps) > 1 else ""
        cells = ["-"] * 3
        if found.seeds:
            interval = found.quality_ci
            cells = [
                mean_text(*found.quality, scale=100, digits=1),
                "" if interval is None else f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]",
                mean_text(*found.gflops, digits=4),
            ]
        each = [f"{figures.seed}: {100 * figures.shown.quality:.1f}" for figures in found.seeds]
        each += [f"{seed}: failed" for seed in found.failed]
        each += [f"{seed}: to come" for seed in found.to_come]
        mark = "*" if _is_knee(front, p) else ""
        rows.append([mark, f"{several}{p.id}", f"{100 * p.shown.quality:.1f}", *cells, ", ".join(each)])
        for figures in found.seeds:
            said += [f"  {several}{figures.trial}: {warning}" for warning in figures.warnings]
        for seed, reason in found.failed.items():
            said.append(
                f"  {several}{confirmation_name(p.trial.trial, seed)} failed, and is in no mean: {reason}"
            )
    lines = ["", "Confirmed by trainings with other seeds", *_aligned(rows)]
    lines.append(
        "Mean ± standard deviation over these seeds. The one that the point was chosen with (chosen) is not among "
        "them, as it was chosen for coming out well. Over videos: 95 % interval of the mean."
    )
    return lines + list(dict.fromkeys(said))


def mean_text(mean: float, std: float | None, *, scale: float = 1, digits: int) -> str:
    """A mean and its standard deviation, where there is one, both times `scale`: `78.4 ± 1.2`."""
    spread = "" if std is None else f" ± {scale * std:.{digits}f}"
    return f"{scale * mean:.{digits}f}{spread}"


def _warnings(front: Front) -> list[str]:
    """What trials say of themselves, each warning once with the trials that give it."""
    said: dict[str, list[str]] = {}
    for point in (*front.points, *front.baselines):
        several = f"{point.trial.sweep}/" if len(front.sweeps) > 1 else ""
        for warning in point.trial.warnings:
            trials = said.setdefault(warning, [])
            if f"{several}{point.trial.trial}" not in trials:
                trials.append(f"{several}{point.trial.trial}")
    if not said:
        return []
    return [
        "",
        "Warnings",
        *(f"  {', '.join(sorted(trials))}: {warning}" for warning, trials in said.items()),
    ]


def _title(front: Front, count: int) -> list[str]:
    trials = {(p.trial.sweep, p.trial.trial) for p in front.points}
    share = front.hypervolume / max(front.reference.gflops * (1 - front.reference.quality), 1e-30)
    return [
        f"Front of {', '.join(front.sweeps)}: {count} of {len(front.points)} operating points, "
        f"{len(trials)} trials",
        f"Chosen on validation, measured on {front.split} (where a cheaper point may come out better). "
        f"Hypervolume on {front.split} {front.hypervolume:.4g} "
        f"({100 * share:.1f} % of the box to {objective_text(front.objective)} {100 * front.reference.quality:g} %, "
        f"{front.reference.gflops:.4g} GFLOPs).",
        *(f"{sweep}: {stops}." for sweep, stops in front.stopped.items()),
    ]


def _legend(front: Front, left_out: int) -> list[str]:
    lines = ["* knee of the front. GFLOPs: giga multiply-accumulates per video, mean over videos."]
    if (best := _yardstick(front)) is not None:
        quality = objective_text(front.objective)
        lines.append(
            f"vs {best.name}: points of {quality} more or less than it at its best, at what share of its GFLOPs. "
            "At equal cost: than the best baseline setting that costs no more."
        )
    if front.accounting != "honest":
        lines.append(f"Accounting: {front.accounting} (as published, not as measured).")
    if any(not p.trial.deployable for p in front.baselines):
        lines.append(
            "! decides by the ground truth: not a model; what choosing so can give, no strict bound on mAP."
        )
    if left_out > 0:
        lines.append(f"{left_out} more on the front: --json shows all, --html and --png draw them.")
    return lines


def _yardstick(front: Front) -> FrontPoint | None:
    """The deployable baseline that is best on validation."""
    usable = [p for p in front.best_baselines() if p.trial.deployable]
    return usable[0] if usable else None


def _rival(front: Front, p: FrontPoint) -> FrontPoint | None:
    """The deployable baseline's setting that is best on validation among those that cost no more there."""
    if p.trial.is_baseline:
        return None
    cost = p.record.val.gflops
    affordable = [b for b in front.baselines if b.trial.deployable and b.record.val.gflops <= cost]
    return max(affordable, key=lambda b: (b.record.val.quality, -b.record.val.gflops), default=None)


def _row(front: Front, p: FrontPoint, best: FrontPoint | None) -> list[str]:
    mark = "*" if _is_knee(front, p) else "" if p.trial.deployable else "!"
    name = p.name if p.trial.is_baseline else p.id
    if len(front.sweeps) > 1 and not p.trial.is_baseline:
        name = f"{p.trial.sweep}/{name}"
    interval = "" if p.quality_ci is None else f"[{100 * p.quality_ci[0]:.1f}, {100 * p.quality_ci[1]:.1f}]"
    cells = [mark, name, f"{100 * p.shown.quality:.1f}", interval, f"{100 * p.shown.top1:.1f}"]
    cells.append(f"{p.shown.gflops:.4f} ± {p.shown.gflops_std:.4f}")
    if best is not None:
        gain = 100 * (p.shown.quality - best.shown.quality)
        cells.append(f"{gain:+.1f} at {100 * p.shown.gflops / best.shown.gflops:.0f} %")
        rival = _rival(front, p)
        cells.append(
            "" if rival is None else f"{100 * (p.shown.quality - rival.shown.quality):+.1f} {rival.name}"
        )
    return [*cells, knobs_text(p)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    left = {0, 1, len(widths) - 1}
    return [
        "  ".join(
            cell.ljust(width) if c in left else cell.rjust(width)
            for c, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _is_log(front: Front) -> bool:
    costs = [p.shown.gflops for p in (*front.points, *front.baselines)]
    return min(costs) > 0 and max(costs) / min(costs) >= LOG_FROM_RATIO


def _drawn(front: Front) -> list[FrontPoint]:
    """The points of the front, cheapest first as they are shown: in the order of their costs on validation, the line
    through them would run back wherever two have changed places.
    """
    return sorted(front.front, key=lambda p: p.shown.gflops)


def _is_knee(front: Front, p: FrontPoint) -> bool:
    return (p.trial.sweep, p.id) == front.knee_id


def _curves(front: Front) -> dict[str, list[FrontPoint]]:
    """Baselines by name, each cheapest first.

    Of several trials of one name (an LSTM with and without a memory), and of one with several knobs (member and clips),
    only the points that none of them beats on validation: one line through all would go up and down between them.
    """
    curves: dict[str, list[FrontPoint]] = {}
    for point in sorted(front.baselines, key=lambda p: p.shown.gflops):
        curves.setdefault(point.name, []).append(point)
    return {name: _best(curve) for name, curve in curves.items()}


def _best(curve: list[FrontPoint]) -> list[FrontPoint]:
    settings = [p.record.inference_knobs for p in curve]
    several = [knob for knob in settings[0] if len({setting.get(knob) for setting in settings}) > 1]
    if len({p.folder for p in curve}) == 1 and len(several) < 2:
        return curve
    measured = [p.record.val for p in curve]
    kept = set(non_dominated([m.gflops for m in measured], [m.quality for m in measured]))
    return [point for i, point in enumerate(curve) if i in kept]


def write_png(front: Front, path: Path) -> None:
    """A picture of the front: baselines, the front with intervals, other points faint."""
    # Matplotlib takes most of a second to import; only pictures need it. No pyplot: no display, no globals.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_points(axes, front)
    _draw_baselines(axes, front)
    if _is_log(front):
        _plain_log_axis(axes, [p.shown.gflops for p in (*front.points, *front.baselines)])
    axes.set_xlabel(AXIS_COST)
    axes.set_ylabel(f"{objective_text(front.objective)} on {front.split} (%)")
    title = f"{', '.join(front.sweeps)}: chosen on validation, shown on {front.split}"
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(True, which="major", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
    with partial_file(path.with_name(f".{path.name}.partial")) as partial:
        figure.savefig(partial, format="png")
        partial.replace(path)


def _draw_points(axes: Any, front: Front) -> None:
    others = [p for p in front.points if not p.on_front]
    axes.scatter(
        [p.shown.gflops for p in others],
        [100 * p.shown.quality for p in others],
        s=9,
        color="#9ab4d1",
        alpha=0.45,
        linewidths=0,
        label="other operating points",
        zorder=1,
    )
    chosen = _drawn(front)
    x, y = [p.shown.gflops for p in chosen], [100 * p.shown.quality for p in chosen]
    axes.plot(x, y, color=_FRONT_COLOUR, linewidth=1.8, zorder=4)
    bars = [p.quality_ci or (p.shown.quality, p.shown.quality) for p in chosen]
    # A percentile interval need not hold the estimate itself.
    below = [max(0.0, v - 100 * low) for v, (low, _) in zip(y, bars, strict=True)]
    above = [max(0.0, 100 * high - v) for v, (_, high) in zip(y, bars, strict=True)]
    axes.errorbar(
        x,
        y,
        yerr=[below, above],
        fmt="o",
        color=_FRONT_COLOUR,
        markersize=5,
        elinewidth=1,
        ecolor="#1f5fa866",
        label=f"front ({', '.join(sorted({p.trial.method for p in chosen}))}), 95 % intervals",
        zorder=5,
    )
    for p in chosen:
        if _is_knee(front, p):
            axes.annotate(
                f"knee {p.id}",
                (p.shown.gflops, 100 * p.shown.quality),
                xytext=(-40, 42),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=_FRONT_COLOUR,
                arrowprops={"arrowstyle": "-", "color": _FRONT_COLOUR, "linewidth": 0.8},
                zorder=6,
            )


def _draw_baselines(axes: Any, front: Front) -> None:
    for k, (name, curve) in enumerate(_curves(front).items()):
        colour = _COLOURS[k % len(_COLOURS)]
        usable = curve[0].trial.deployable
        axes.plot(
            [p.shown.gflops for p in curve],
            [100 * p.shown.quality for p in curve],
            color=colour,
            linewidth=1.1,
            linestyle="-" if usable else ":",
            marker="os^Dv<>P"[k % 8],
            markersize=3.5,
            alpha=0.9,
            label=name if usable else f"{name} (ground truth)",
            zorder=3,
        )


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the bounds, at most nine."""
    ticks = [m * 10.0**e for e in range(-9, 7) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return ticks if len(ticks) <= 9 else [t for t in ticks if f"{t:e}".startswith("1")]


def _plain_log_axis(axes: Any, costs: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    low, high = min(costs) / 1.15, max(costs) * 1.45
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def write_html(front: Front, path: Path) -> None:
    """One page, complete in itself (no network): the picture as SVG, what a point is on hover, the table."""
    others = [_hover(p) for p in front.points if not p.on_front]
    chosen: list[dict[str, JsonValue]] = [{**_hover(p), "knee": _is_knee(front, p)} for p in _drawn(front)]
    series: list[dict[str, Any]] = [
        {"name": "other operating points", "kind": "other", "points": others},
        *(
            {
                "name": name if curve[0].trial.deployable else f"{name} (ground truth)",
                "kind": "baseline",
                "colour": _COLOURS[k % len(_COLOURS)],
                "points": [_hover(p) for p in curve],
            }
            for k, (name, curve) in enumerate(_curves(front).items())
        ),
        {"name": "front", "kind": "front", "colour": _FRONT_COLOUR, "points": chosen},
    ]
    costs = [p.shown.gflops for p in (*front.points, *front.baselines)]
    data = {
        "series": series,
        "log": _is_log(front),
        "ticks": _ticks(min(costs) / 1.15, max(costs) * 1.2) if _is_log(front) else None,
        "x": AXIS_COST,
        "y": f"{objective_text(front.objective)} on {front.split} (%)",
    }
    values = {
        # No "<" at all: "</" would end the script element, "<!--" would open a comment in it.
        "@DATA@": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "@TITLE@": html.escape(f"Front of {', '.join(front.sweeps)}"),
        "@TABLE@": html.escape(front_table(front)),
    }
    # In one pass: a name may look like a mark.
    page = re.sub("|".join(values), lambda mark: values[mark[0]], TEMPLATE)
    with partial_file(path.with_name(f".{path.name}.partial")) as partial:
        partial.write_text(page)
        partial.replace(path)


def _hover(p: FrontPoint) -> dict[str, JsonValue]:
    interval = ""
    if p.quality_ci is not None:
        interval = f", 95 % interval {100 * p.quality_ci[0]:.1f} to {100 * p.quality_ci[1]:.1f}"
    return {
        "x": p.shown.gflops,
        "y": 100 * p.shown.quality,
        "ci": None if p.quality_ci is None else [100 * p.quality_ci[0], 100 * p.quality_ci[1]],
        "lines": [
            f"{p.trial.sweep} / {p.id}" + (f" ({p.name})" if p.trial.is_baseline else ""),
            f"{objective_text(p.trial.objective)} {100 * p.shown.quality:.1f} %{interval}",
            f"top-1 {100 * p.shown.top1:.1f} %",
            f"{p.shown.gflops:.4g} GFLOPs per video, std {p.shown.gflops_std:.3g}",
            *_confirmed_hover(p),
            knobs_text(p),
        ],
    }


def _confirmed_hover(p: FrontPoint) -> list[str]:
    found = p.confirmation
    if found is None or not found.seeds:
        return []
    quality = mean_text(*found.quality, scale=100, digits=1)
    gflops = mean_text(*found.gflops, digits=4)
    count = f"{len(found.seeds)} other seed{'s' if len(found.seeds) > 1 else ''}"
    failed = f", {len(found.failed)} failed" if found.failed else ""
    return [f"{count}: {objective_text(p.trial.objective)} {quality} % at {gflops} GFLOPs{failed}"]
