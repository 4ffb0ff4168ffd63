"""The figure of classes that are alike: a matrix with its tree in each space, and how far the spaces agree."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from .clustered import average_linkage, branches, class_names, leaves, square
from .colours import COLOURS, GREY
from .figure_style import CAPTION, LABEL, MANY, TICK, new_figure, plain, short

SPACES = {"head": "the head's rows", "value": "value space", "activation": "activation"}
NAMED = 60  # classes whose names stand beside a matrix
ROW = 0.12  # inches of a named class
BRANCHES = 40  # merges that are drawn of a tree of more than NAMED classes
MATRIX = 300  # classes whose squares are larger than pixels


def similarity_figure(similarity: pd.DataFrame, agreement: pd.DataFrame, caption: str = "") -> Figure:
    """Above, in each space the matrix of all classes in the order of its tree; below, pairs by each two spaces.

    Args:
        similarity: a row for each two classes, as from class_similarity.
        agreement: a row for each two spaces, as from agreement_of_spaces.
    """
    names = class_names(similarity)
    named = len(names) <= NAMED
    side = max(ROW * len(names), 3.2) if named else 4.0
    figure = new_figure(3 * (side + (2.2 if named else 1.2)), side + 4.2, caption)
    grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 0.03), height_ratios=(side + 0.4, 3.4))
    end = max(float(np.nanmax(similarity[[*SPACES]].abs().to_numpy(), initial=0)), 1e-6)
    for column, space in enumerate(SPACES):
        parts = grid[0, column].subgridspec(1, 2, width_ratios=(1, 4), wspace=0.01)
        beside, axis = figure.add_subplot(parts[0]), figure.add_subplot(parts[1])
        drawn = _clusters(beside, axis, similarity[space], names, end)
        axis.set_title(f"{SPACES[space]}: {len(names):,} classes", fontsize=CAPTION)
    bar = figure.colorbar(drawn, cax=figure.add_subplot(grid[0, 3]))
    bar.set_label("cosine (grey: none, as of a class with itself)", fontsize=LABEL)
    bar.ax.tick_params(labelsize=TICK)
    for column, row in enumerate(agreement.to_dict("records")):
        axis = figure.add_subplot(grid[1, column])
        plain(axis)
        _pairs(axis, similarity, row["space_a"], row["space_b"])
        passes = "passes" if row["passes"] else "does not pass"
        told = "" if np.isnan(row["r"]) else f", r = {row['r']:.2f}, {passes} (chance {row['chance']:.2f})"
        axis.set_title(f"{len(similarity):,} pairs of classes{told}", fontsize=CAPTION)
    return figure


def _clusters(beside: Axes, axis: Axes, cosines: pd.Series[float], names: list[str], end: float) -> AxesImage:
    """A matrix in the order of its tree, and the tree at its left."""
    count, tree = len(names), average_linkage(cosines)
    order = np.arange(count) if tree is None else leaves(tree)
    matrix = square(cosines, count)[np.ix_(order, order)]
    np.fill_diagonal(matrix, np.nan)
    smooth = "nearest" if count <= MATRIX else "antialiased"
    colours = colormaps["RdBu_r"].with_extremes(bad=GREY)
    drawn = axis.imshow(matrix, cmap=colours, vmin=-end, vmax=end, interpolation=smooth, aspect="auto")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if count <= NAMED:
        axis.set_yticks(range(count), [short(names[i], 18) for i in order], fontsize=TICK if count <= MANY else 6)
        axis.yaxis.tick_right()
        axis.tick_params(axis="y", length=0)
    beside.spines[["top", "right", "left"]].set_visible(False)
    beside.tick_params(labelsize=TICK)
    beside.set(yticks=[], ylim=(count - 0.5, -0.5))
    if tree is None:
        beside.set_xticks([])
        beside.set_xlabel("no tree: a class\nthat does not vary", fontsize=TICK)
        return drawn
    lines, whole = branches(tree, count if count <= NAMED else BRANCHES)
    beside.add_collection(LineCollection(list(lines), colors="black", linewidths=0.8))
    beside.add_collection(PolyCollection(list(whole), facecolors="#bbbbbb", edgecolors="none"))
    beside.set_xlim(max(1.02 * float(tree[-1, 2]), 1e-6), 0)
    beside.locator_params(axis="x", nbins=3)
    beside.set_xlabel("1 - cosine", fontsize=LABEL)
    return drawn


def _pairs(axis: Axes, similarity: pd.DataFrame, a: str, b: str) -> None:
    if len(similarity) <= NAMED**2 / 2:
        axis.plot(similarity[a], similarity[b], "o", ms=4, color=COLOURS[0], alpha=0.7, mew=0)
    else:
        axis.hexbin(similarity[a], similarity[b], gridsize=60, bins="log", cmap="Blues", mincnt=1, lw=0)
    near = similarity.nlargest(5, b)
    axis.plot(near[a], near[b], "o", ms=5, mfc="none", color=COLOURS[5])
    names = [
        f"{short(one, 18)}, {short(other, 18)}  {value:.2f}"
        for one, other, value in zip(near.class_a, near.class_b, near[b], strict=True)
    ]
    axis.text(0.02, 0.98, "\n".join([f"most alike in {SPACES[b]} (ringed):", *names]), transform=axis.transAxes,
              va="top", fontsize=TICK)  # fmt: skip
    low, high = similarity[b].min(), similarity[b].max()
    if not np.isnan(low):
        axis.set_ylim(low - 0.05 * (high - low + 0.1), high + 0.75 * (high - low + 0.1))
    axis.set(xlabel=f"cosine in {SPACES[a]}", ylabel=f"cosine in {SPACES[b]}")
