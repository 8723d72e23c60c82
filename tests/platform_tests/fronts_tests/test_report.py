"""The front for people: the table says what matters, the pictures are whole and hostile names harmless."""

import dataclasses
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from paretovid.platform.fronts.build import read_front
from paretovid.platform.fronts.front import Front
from paretovid.platform.fronts.report import _curves, _draw_points, _rival, front_table, write_html, write_png
from paretovid.platform.testing.sweeps import synthetic_sweep, write_sweep, write_trial


@pytest.fixture
def front(tmp_path: Path) -> Front:
    return read_front([synthetic_sweep(tmp_path / "sweeps" / "s1")])


def test_table_shows_the_front_and_its_baselines(front: Front) -> None:
    table = front_table(front)
    for point in front.front:
        assert point.id in table
    assert re.search(r"^\* +" + str(front.knee_id[1] if front.knee_id else ""), table, re.M)
    assert re.search(r"^! +oracle", table, re.M) and re.search(r"^ +uniform .* \+0\.0 at 100 %", table, re.M)
    assert "multiply-accumulates" in table and "Chosen on validation, measured on test" in table
    assert f"Hypervolume on test {front.hypervolume:.4g} " in table


def test_long_fronts_are_thinned_and_say_so(front: Front) -> None:
    table = front_table(front, rows=3)
    assert sum(point.id in table for point in front.front) == 3
    assert f"{len(front.front) - 3} more on the front" in table


def test_table_without_baselines(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    write_trial(sweep, "t0000", [(0.3, 0.01)])
    assert "vs " not in front_table(read_front([sweep]))


def test_what_trials_say_of_themselves_is_reported_once_with_their_names(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    for trial, warnings in (("t0000", ["collapsed"]), ("t0001", []), ("t0002", ["collapsed", "slow"])):
        write_trial(sweep, trial, [(0.3, 0.01), (0.4, 0.02)])
        path = sweep.trial(trial).result
        path.write_text(json.dumps(json.loads(path.read_text()) | {"remarks": warnings}))
    front = read_front([sweep])
    lines = front_table(front).splitlines()
    assert lines[lines.index("Warnings") + 1 :] == ["  t0000, t0002: collapsed", "  t0002: slow"]
    points: Any = front.to_json()["points"]
    assert {p["trial"]: p["remarks"] for p in points}["t0002"] == ["collapsed", "slow"]


@pytest.mark.slow
def test_picture_is_a_picture(front: Front, tmp_path: Path) -> None:
    write_png(front, tmp_path / "front.png")
    fewer = dataclasses.replace(front, points=front.front[:1], baselines=())
    write_png(fewer, tmp_path / "fewer.png")
    pictures = []
    for name in ("front.png", "fewer.png"):
        with Image.open(tmp_path / name) as picture:
            picture.load()
            assert picture.format == "PNG" and picture.width >= 600 and picture.height >= 400
            pictures.append(np.asarray(picture.convert("RGB"), dtype=np.int64))
    coloured = [int((np.ptp(pixels, axis=2) > 60).sum()) for pixels in pictures]
    assert coloured[0] > 2 * coloured[1] > 0, "points and their front are drawn, as many as there are"
    assert not list(tmp_path.glob(".*partial"))


def test_page_is_complete_in_itself(front: Front, tmp_path: Path) -> None:
    write_html(front, tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    assert not re.search(r"(src|href)\s*=|@import|fetch\(", page)
    data = json.loads(re.search(r"const data = (.*);\n", page).group(1))  # type: ignore[union-attr]
    shown = [p for series in data["series"] if series["kind"] == "front" for p in series["points"]]
    assert len(shown) == len(front.front)
    assert any("interval" in line for line in shown[0]["lines"])
    knees = [point["lines"][0] for point in shown if point["knee"]]
    assert front.knee_id is not None and knees == [" / ".join(front.knee_id)]


def test_the_line_of_a_front_runs_from_cheap_to_expensive_as_it_is_shown(tmp_path: Path) -> None:
    """Two points that have changed places between validation and test would make it run back."""
    sweep = write_sweep(tmp_path / "s")
    write_trial(sweep, "t0000", [(0.3, 0.01), (0.5, 0.02), (0.7, 0.03)])
    path = sweep.trial("t0000").result
    result = json.loads(path.read_text())
    for point, cost in zip(result["points"], (0.02, 0.01, 0.03), strict=True):
        point["test"]["gflops"] = cost
    path.write_text(json.dumps(result))
    front = read_front([sweep])
    assert [p.shown.gflops for p in front.front] == [0.02, 0.01, 0.03]
    write_html(front, tmp_path / "front.html")
    data = json.loads(
        re.search(r"const data = (.*);\n", (tmp_path / "front.html").read_text()).group(1)  # type: ignore[union-attr]
    )
    (line,) = (series["points"] for series in data["series"] if series["kind"] == "front")
    assert [point["x"] for point in line] == [0.01, 0.02, 0.03]
    axes = Figure().add_subplot()
    _draw_points(axes, front)
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [0.01, 0.02, 0.03]


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"name": "</script><b>x"})
    write_trial(sweep, "t0000", [(0.3, 0.01)], training_knobs={"</script>": 1.0})
    write_html(read_front([sweep]), tmp_path / "front.html")
    assert (tmp_path / "front.html").read_text().count("</script>") == 1


def test_names_that_look_like_marks_or_open_a_comment_are_text(tmp_path: Path) -> None:
    name = "@TABLE@ @DATA@ @TITLE@ <!--<script> & \\u003c"
    sweep = write_sweep(tmp_path / name)
    write_trial(sweep, "t0000", [(0.3, 0.01)])
    write_html(read_front([sweep]), tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    script = page.partition("<script>")[2].partition("</script>")[0]
    assert (
        page.count("const data = ") == page.count("<pre>") == page.count("<script") == 1
        and "<!--" not in script
    )
    data = json.loads(re.search(r"const data = (.*);\n", page).group(1))  # type: ignore[union-attr]
    (point,) = (point for series in data["series"] if series["kind"] == "front" for point in series["points"])
    assert point["lines"][0].startswith(name)
    assert page.count(f"<title>Front of {html.escape(name)}</title>") == 1


def test_of_several_trials_of_a_baseline_only_the_best_points_are_joined(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    write_trial(sweep, "t0000", [(0.5, 0.01)])
    for name, skill in (("plain", 0.0), ("better", 0.2)):
        points = [(0.2 + skill, 0.02), (0.4 + skill, 0.04), (0.6 + skill, 0.08)]
        write_trial(sweep, name, points, method="uniform", is_baseline=True)
    write_trial(sweep, "other", [(0.9, 0.03), (0.1, 0.05)], method="lstm", is_baseline=True)
    front = read_front([sweep])
    curves = _curves(front)
    assert {p.trial.trial for p in curves["uniform"]} == {"better"}
    assert len(curves["lstm"]) == 2  # one trial is shown as it is, also where more costs and is worse


def test_of_a_baseline_with_several_knobs_only_the_best_points_are_joined(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    write_trial(sweep, "t0000", [(0.5, 0.01)])
    points = [(0.2, 0.02), (0.6, 0.04), (0.4, 0.05), (0.7, 0.08)]
    write_trial(sweep, "single", points, method="single_model", is_baseline=True)
    path = sweep.trial("single").result
    result = json.loads(path.read_text())
    for number, point in enumerate(result["points"]):
        point["inference_knobs"] = {"member": number % 2, "clips": number // 2}
    path.write_text(json.dumps(result))
    joined = _curves(read_front([sweep]))["single_model"]
    assert [p.record.index for p in joined] == [0, 1, 3]


def test_a_point_is_held_against_the_best_baseline_that_costs_no_more(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    write_trial(sweep, "t0000", [(0.3, 0.01), (0.6, 0.05)])
    write_trial(sweep, "uniform", [(0.2, 0.02), (0.9, 0.06)], method="uniform", is_baseline=True)
    write_trial(sweep, "lstm", [(0.4, 0.04)], method="lstm", is_baseline=True)
    write_trial(sweep, "oracle", [(1.0, 0.01)], method="oracle", is_baseline=True, deployable=False)
    front = read_front([sweep])
    cheap, expensive = sorted(front.points, key=lambda p: p.record.val.gflops)
    assert _rival(front, cheap) is None
    rival = _rival(front, expensive)
    assert rival is not None and rival.name == "lstm"
    assert "at equal cost" in front_table(front) and " lstm " in front_table(front)


def test_bounds_do_not_move_the_knee(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    write_trial(sweep, "t0000", [(0.1, 0.01), (0.2, 0.02), (0.8, 0.03), (0.85, 0.1), (0.9, 0.2)])
    whole = read_front([sweep])
    bounded = read_front([sweep], max_gflops=0.025)
    assert len(bounded.points) < len(whole.points) and bounded.knee_id == whole.knee_id
