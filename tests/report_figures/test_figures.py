"""The figures: readable at any size, the same bytes for the same numbers, and no trace in matplotlib's settings."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from made_up_reports import made_up_report, unmeasured_run
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from circuitcheck.report.charts.figures import draw_figures, figures
from circuitcheck.report.charts.style import CATEGORIES, drawing, layer_colours, shortened

SIZES = ((2, 2), (6, 8), (20, 20))
TOUCHING = 0.5
"""Pixels by which boxes may overlap: matplotlib rounds the extent of text to whole pixels."""

ODD_NAMES = ("$x_1$ <b>", "模型/量化", "A" * 200)


def report(layers: int, heads: int) -> dict:
    return made_up_report(
        layers,
        heads,
        ("f16", "int8", "release-awq-4bit-group128"),
        ("ioi", "facts", "induction"),
        verdicts={("int8", "ioi"): "FAIL", ("int8", "facts"): "FAIL", ("f16", "facts"): "INCONCLUSIVE"},
    )


def words(figure: Figure) -> list[Text]:
    """Everything that is written anywhere in a figure."""
    figure.draw_without_rendering()
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    ticks_out_of_view = {
        id(tick.label1)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.majorTicks, *axis.minorTicks)
        if tick not in axis._update_ticks()
    }
    hidden = {id(text) for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    return [text for text in found if id(text) not in ticks_out_of_view | hidden]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), text.get_window_extent()) for text in words(figure)]
    return [
        (first, second)
        for (first, a), (second, b) in itertools.combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > TOUCHING and min(a.y1, b.y1) - max(a.y0, b.y0) > TOUCHING
    ]


@pytest.mark.parametrize(("layers", "heads"), SIZES)
def test_no_words_overlap_and_none_leave_the_page(layers: int, heads: int):
    with drawing():
        drawn = dict(figures(report(layers, heads)))
        for name, figure in drawn.items():
            assert overlaps(figure) == [], name
            page = figure.bbox.padded(TOUCHING)
            outside = [text.get_text() for text in words(figure) if not _inside(page, text.get_window_extent())]
            assert outside == [], name
    assert len(drawn) == 3 + 2 * 3


def _inside(page, box) -> bool:
    return page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1


@pytest.mark.parametrize(("layers", "heads"), SIZES)
def test_the_most_important_head_is_named(layers: int, heads: int):
    document = report(layers, heads)
    with drawing():
        figure = dict(figures(document))["importance-drift-int8"]
    labels = {text.get_text() for text in figure.axes[0].texts if text.get_gid() == "label"}
    run = next(run for run in document["runs"] if run["candidate"] == "int8")
    top = max(run["units"], key=lambda head: abs(head["importance_ref"]["value"]))
    assert top["unit"] in labels
    assert len(labels) <= 10


def test_overlap_is_seen_where_there_is_one():
    with drawing():
        figure = Figure(layout="constrained")
        figure.subplots().text(0.5, 0.5, "one")
        figure.axes[0].text(0.5, 0.51, "two")
        assert ("one", "two") in overlaps(figure)


def test_points_and_intervals_are_the_documents():
    document = made_up_report(2, 2)
    with drawing():
        drawn = dict(figures(document))
    (run,) = document["runs"]
    offsets = drawn["importance-drift-int8"].axes[0].collections[0].get_offsets()
    expected_points = sorted((row["importance_ref"]["value"], row["drift"]) for row in run["units"])
    assert sorted(map(tuple, offsets.tolist())) == expected_points
    whiskers = next(line for line in drawn["importance-drift-int8"].axes[0].lines if len(line.get_xdata()) > 2)
    ends = sorted(zip(whiskers.get_xdata()[::3], whiskers.get_xdata()[1::3], strict=True))
    expected = sorted(tuple(row["importance_ref"]["interval"]) for row in run["units"])
    assert [pytest.approx(pair) for pair in expected] == ends
    kinds = drawn["zero-mean"].axes[0].collections[0].get_offsets()
    by_kind = [row["importance_ref_by_kind"] for row in run["units"]]
    expected_kinds = [(kinds_of["mean"]["value"], kinds_of["zero"]["value"]) for kinds_of in by_kind]
    assert sorted(map(tuple, kinds.tolist())) == sorted(expected_kinds)


def test_repair_curve_has_the_random_band_behind_it():
    document = made_up_report(6, 8, verdicts={("int8", "ioi"): "FAIL"})
    with drawing():
        axes = dict(figures(document))["repair-int8"].axes[0]
    names = axes.get_legend_handles_labels()[1]
    assert names == ["random, with band", "importance", "drift", "importance x drift", "fragility", "reversed"]
    random = document["runs"][0]["repair"]["random"]
    line = next(line for line in axes.lines if line.get_label() == "random, with band")
    assert line.get_ydata().tolist() == [point["recovery"]["value"] for point in random]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == min(point["recovery"]["interval"][0] for point in random)
    assert band.max() == max(point["recovery"]["interval"][1] for point in random)


def test_what_is_undefined_is_said_and_not_drawn():
    document = made_up_report(2, 2, ("still",))
    (run,) = document["runs"]
    for head in run["units"]:
        head["drift"] = 0.0
    run["associations"] = None
    with drawing():
        drawn = dict(figures(document))
    assert [text.get_text() for text in drawn["importance-drift-still"].axes[0].texts] == ["no head has drifted"]
    assert "no damage is resolved" in drawn["repair-still"].axes[0].texts[0].get_text()


def test_heads_that_a_screened_sweep_left_out_are_left_out():
    document = made_up_report(6, 8)
    for head in document["runs"][0]["units"][5:]:
        head |= {"importance_ref": {"value": None, "interval": [None, None]}, "importance_ref_by_kind": {}}
    document["runs"][0]["units"][0]["drift"] = 0.0
    with drawing():
        drawn = dict(figures(document))
        assert all(overlaps(figure) == [] for figure in drawn.values())
    assert len(drawn["zero-mean"].axes[0].collections[0].get_offsets()) == 5


def test_same_numbers_same_bytes_and_both_kinds_are_whole(tmp_path: Path):
    document = made_up_report(2, 2, verdicts={("int8", "ioi"): "FAIL"})
    before = dict(mpl.rcParams)
    first = draw_figures(document, tmp_path / "a" / "deep")
    second = draw_figures(copy.deepcopy(document), tmp_path / "b")
    assert [file.name for file in first] == [file.name for file in second]
    assert len({file.name.lower() for file in first}) == len(first) == 2 * (3 + 2)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        if one.suffix == ".svg":
            assert ElementTree.parse(one).getroot().tag.endswith("svg")
        else:
            assert one.read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.joinpath("b").iterdir()) == sorted(second)  # no temporary file is left
    assert dict(mpl.rcParams) == before


def test_names_of_any_kind_are_drawn_and_filed(tmp_path: Path):
    document = made_up_report(2, 2, ODD_NAMES, ("$t$", "任务\n2"))
    files = draw_figures(document, tmp_path)
    assert len(set(files)) == len(files) == 2 * (3 + 2 * len(ODD_NAMES))
    assert all(file.parent == tmp_path and file.is_file() and file.name.isascii() for file in files)


def test_nothing_measured_nothing_drawn(tmp_path: Path):
    document = made_up_report()
    document["runs"] = [unmeasured_run("gone", "ioi", "no such thing")]
    assert draw_figures(document, tmp_path) == []
    document["runs"].append(made_up_report()["runs"][0])
    assert len(draw_figures(document, tmp_path)) == 2 * 5


def test_matplotlib_is_imported_only_when_drawing():
    code = (
        "import sys, circuitcheck, circuitcheck.plugin.plugin, circuitcheck.plugin.files;"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_pyplot_is_never_imported(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from made_up_reports import made_up_report; from circuitcheck.report.charts.figures import draw_figures;"
        "draw_figures(made_up_report(), Path(sys.argv[1])); assert 'matplotlib.pyplot' not in sys.modules"
    )
    helpers = Path(__file__).parents[1] / "helpers"
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path), str(helpers)], check=True)


@pytest.mark.parametrize("layers", [1, 2, 20, 100])
def test_layers_grow_lighter_and_stay_visible_on_white(layers: int):
    colours, scale = layer_colours(layers)
    light = [_luminance(colours(scale(layer))) for layer in range(layers)]
    assert light == sorted(light)
    assert len(set(light)) == layers
    # 1.5:1 against white is the least at which marks of this size were still told from the page by eye.
    assert 1.05 / (light[-1] + 0.05) > 1.5


def test_categories_differ_for_colour_blind_readers():
    """After Viénot, Brettel and Mollon (1999), red and green are seen as one mean."""
    seen = [_deuteranope(to_rgb(colour)) for colour in CATEGORIES[:6]]
    for first, second in itertools.combinations(seen, 2):
        assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 0.08


def _luminance(colour) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _deuteranope(colour) -> tuple[float, float]:
    red, green, blue = (part**2.2 for part in colour)
    return 0.29275 * red + 0.70725 * green, -0.02234 * red + 0.02234 * green + blue


def test_a_long_name_keeps_both_ends():
    assert shortened("release-1-int8", 20) == "release-1-int8"
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert len(shortened("x" * 99, 20)) == 20
