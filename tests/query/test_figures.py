"""Figures of 12, 100 and 1,000 classes: no larger than 4,000 pixels a side, every text inside, no label on another."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from figures_of_many import COUNTS, figures, names
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.hierarchy import fcluster
from vitdex.query.dissect.similarity import agreement_of_spaces
from vitdex.query.drawing.class_figures import shared_figure
from vitdex.query.drawing.clustered import average_linkage, branches, leaves
from vitdex.query.drawing.colours import Scale
from vitdex.query.drawing.contact_sheet import sheet
from vitdex.query.drawing.focus_figure import focus_figure
from vitdex.query.drawing.heatmap_sheet import Heatmaps
from vitdex.query.drawing.similarity_figure import similarity_figure
from vitdex.query.drawing.text import cut, fitted, text_width, wrap

MOST = 4000
SMALLEST = 5  # points
KINDS = list(figures(names(12, False)))


def drawn(figure: Figure) -> FigureCanvasAgg:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def boxes(canvas: FigureCanvasAgg, texts: list[Text]) -> list[Bbox]:
    return [text.get_window_extent(canvas.get_renderer()) for text in texts]


def overlapping(found: list[Bbox]) -> bool:
    shrunk = [Bbox.from_extents(b.x0 + 1, b.y0 + 1, b.x1 - 1, b.y1 - 1) for b in found]
    return any(a.overlaps(b) for a, b in itertools.pairwise(shrunk))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_of_many_classes_is_legible(kind: str, count: int) -> None:
    figure = figures(names(count, long=count == 100))[kind]()
    canvas = drawn(figure)
    assert max(canvas.get_width_height()) <= MOST
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(float(text.get_fontsize()) for text in texts) >= SMALLEST
    assert not any("mathdefault" in text.get_text() for text in texts)
    axes = [axis for axis in figure.axes if axis.get_visible()]
    ticks = [tick_labels(axis, way) for axis in axes for way in ("x", "y")]
    titles = [text for axis in axes for text in (axis.title, axis.xaxis.label, axis.yaxis.label) if text.get_text()]
    whole = Bbox.from_extents(-1, -1, *(side + 1 for side in canvas.get_width_height()))
    shown = [*figure.texts, *titles, *itertools.chain(*ticks)]
    for text, box in zip(shown, boxes(canvas, shown), strict=True):
        assert Bbox.intersection(whole, box).bounds == pytest.approx(box.bounds), text.get_text()  # type: ignore[union-attr]
    for labels in ticks:
        assert not overlapping(boxes(canvas, labels))


def tick_labels(axis: Axes, way: str) -> list[Text]:
    """Of the ticks that are drawn: those within the limits."""
    which = axis.xaxis if way == "x" else axis.yaxis
    low, high = sorted(which.get_view_interval())
    places = zip(which.get_majorticklocs(), which.get_majorticklabels(), strict=False)  # none where they are shared
    return [text for place, text in places if low <= place <= high and text.get_text() and text.get_visible()]


def test_of_many_classes_the_extremes_and_all_of_them_are_shown() -> None:
    over = np.random.default_rng(1).permutation(np.linspace(-0.4, 0.4, 100))
    table = pd.DataFrame({"class": [f"c{i}" for i in range(100)], "energy": 0.5 + over, "random_energy": 0.5})
    table = table.assign(block=1, unit=range(100), mask_share=0.2, n=8, energy_se=0.1)
    table = table.assign(random_05=0.1, random_95=0.9, exceeds=over > 0, chance=0.7, passes=over > 0.2)
    left, dots, bars = focus_figure(table, "score", "c").axes
    of_kind = {line.get_label(): np.size(line.get_xdata()) for line in dots.lines}
    assert (of_kind["passes (25)"], of_kind["does not pass (75)"]) == (25, 75)
    filled = {str(line.get_label())[:8]: line.get_xdata() for line in left.lines if line.get_marker() == "D"}
    assert (np.size(filled["first ke"]), np.size(filled["the same"])) == (12, 12)  # hollow: what does not pass
    assert np.min(filled["first ke"]) > 0.7
    ranked = table.assign(over=over).sort_values("over", ascending=False)["class"].tolist()
    shown = [label.get_text().split()[0] for label in left.get_yticklabels()]
    assert shown == ranked[:12] + ranked[-12:]
    assert "(n = 8)" in left.get_yticklabels()[0].get_text()
    assert sum(np.size(line.get_xdata()) for line in dots.lines) == 100 + 2
    assert sum(bar.get_height() for bar in bars.patches) == 100  # type: ignore[attr-defined]


def test_shared_says_how_many_it_leaves_out() -> None:
    table = pd.DataFrame({"block": 1, "unit": range(33), "n": [*range(35, 2, -1)], "classes": "a, b"})
    left, right = shared_figure(table, 1, "score", "c").axes
    assert left.get_title() == "the first 20 of 33 shared neurons"
    assert len(left.get_yticklabels()) == 20
    assert sum(bar.get_height() for bar in right.patches) == 33  # type: ignore[attr-defined]


def direct_tree(cosines: NDArray[np.float64]) -> list[tuple[float, frozenset[int]]]:
    """Average linkage by its definition: of all clusters the two with the smallest mean distance join."""
    clusters, merges = [frozenset([i]) for i in range(len(cosines))], []
    while len(clusters) > 1:
        height, a, b = min(
            (float((1 - cosines[np.ix_([*a], [*b])]).mean()), sorted(a), sorted(b))
            for a, b in itertools.combinations(clusters, 2)
        )
        joined = frozenset(a + b)
        clusters = [one for one in clusters if not one <= joined] + [joined]
        merges.append((height, joined))
    return merges


def test_a_tree_is_average_linkage_and_its_clusters_stand_beside_each_other() -> None:
    rows = np.random.default_rng(3).normal(size=(30, 5))
    cosines = np.asarray(np.corrcoef(rows))
    tree = average_linkage(cosines[np.triu_indices(30, 1)])
    assert tree is not None
    order = leaves(tree)
    merges = direct_tree(cosines)
    np.testing.assert_allclose(tree[:, 2], [height for height, _ in merges])
    for count in range(1, 31):
        members = fcluster(tree, count, "maxclust")
        found = {frozenset(np.flatnonzero(members == one).tolist()) for one in members}
        assert found >= {one for _, one in merges[30 - count - 1 : 30 - count]}
        assert len(list(itertools.groupby(members[order]))) == len(found)
    lines, whole = branches(tree, 30)
    assert lines.shape == (29, 4, 2)
    np.testing.assert_array_equal(lines[:, 1, 0], tree[:, 2])  # brackets stand at their heights
    assert not len(whole)
    lines, whole = branches(tree, 7)
    assert len(lines) == 7
    single = 8 - len(whole)  # seven merges leave eight clusters
    assert sum(last - first + 1 for first, last in whole[:, 1:, 1]) == 30 - single
    assert (np.diff(whole[np.argsort(whole[:, 1, 1])][:, 1:, 1].reshape(-1)) > 0).all()  # none within another


def test_no_tree_of_what_does_not_vary() -> None:
    assert average_linkage([0.5, np.nan, 0.5]) is None
    cosines = pd.DataFrame({"class_a": ["a", "a", "b"], "class_b": ["b", "c", "c"]})
    cosines = cosines.assign(head=[0.1, 0.2, 0.3], value=[0.1, 0.2, 0.4], activation=np.nan)
    figure = similarity_figure(cosines, agreement_of_spaces(cosines), "c")
    drawn(figure)
    assert [bool(axis.collections) for axis in figure.axes[:6:2]] == [True, True, False]
    assert "no tree" in figure.axes[4].get_xlabel()
    assert "r =" in figure.axes[-3].get_title()
    assert "r =" not in figure.axes[-1].get_title()


def heatmaps(rows: int, columns: int, name: str = "coin", own: bool = False) -> Heatmaps:
    values = np.zeros((rows, columns, 4, 4), np.float32)
    scales = tuple(Scale(-1, 1) for _ in range(columns))
    headings = tuple((name, f"predicted {name}") for _ in range(rows))
    images = np.zeros((rows, 16, 16, 3), np.uint8)
    return Heatmaps(
        values,
        images,
        () if own else scales,
        name,
        headings,
        (name,) * columns,
        (name,),
        (scales,) * rows if own else (),
    )


@pytest.mark.parametrize("own", [False, True])
def test_a_sheet_of_fifty_by_fifty_is_no_larger(own: bool) -> None:
    assert max(heatmaps(50, 50, own=own).picture().size) <= MOST
    assert heatmaps(2, 2, own=own).picture().width > 3 * 224


@pytest.mark.parametrize("name", ["a long name " * 13, "unbroken" * 20])
def test_long_names_stay_on_a_sheet(name: str) -> None:
    few = heatmaps(2, 2, name).picture()
    assert few.width < 1000
    for text in ("coin", name):
        line, size = fitted(text, 200, 15)
        assert text_width(line, size) <= 200
        assert size >= 9
        assert (line == text) == (text == "coin")
        assert all(text_width(line, 15) <= 120 for line in wrap(text, 15, 120))
    assert cut("coin", 200, 15) == "coin"


def test_a_contact_sheet_of_many_is_no_larger() -> None:
    for count, height in ((5, 8), (100, 16), (2000, 16)):
        found = sheet(np.zeros((count, height, 8, 3), np.uint8), [["a", "b"]] * count, ["title"])
        assert isinstance(found, Image.Image)
        assert max(found.size) <= MOST
