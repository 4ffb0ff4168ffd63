"""What classes lose without their top k neurons, by ranking: lines over k, on their images and on those of others."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .colours import COLOURS, GREY
from .figure_style import CAPTION, LABEL, new_figure, plain

PANELS = (  # a row shares its axis, so that what others lose is seen in the size of what the class loses
    ("logit", "the class's images: its logit"),
    ("others_logit", "images of others: their own class's logit"),
    ("accuracy", "the class's images: accuracy"),
    ("others_accuracy", "images of others: accuracy"),
)
MARKERS = "osD^vP*X"
BESIDE = 1.045  # what a ranking's dots stand beside the one before it: k times this
LINES = (*COLOURS[:6], *COLOURS[8:])  # without the yellows, which are pale on white


def rankings_figure(means: pd.DataFrame, caption: str = "") -> Figure:
    """A line a ranking over k: mean change over the classes with its 95% interval; random neurons grey."""
    figure = new_figure(9.5, 6.4, caption)
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for axis, (name, title) in zip(axes.reshape(-1), PANELS, strict=True):
        _panel(axis, means, name)
        axis.set_title(title, fontsize=CAPTION)
        plain(axis)
    for row, unit in zip(axes, ("logits", "share"), strict=True):
        row[0].set_ylabel(f"change ({unit})")
    for axis in axes[1]:
        axis.set_xlabel("neurons removed of each class")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=4, fontsize=LABEL)
    return figure


def _panel(axis: Axes, means: pd.DataFrame, name: str) -> None:
    """One measure of all rankings, side by side where they have the same k."""
    rankings = [*means.ranking.unique()]
    axis.axhline(0, color="black", lw=0.8, ls="--")
    for place, by in enumerate(rankings):
        rows = means[means.ranking == by].sort_values("k")
        at = rows.k.to_numpy(np.float64) * BESIDE ** (place - (len(rankings) - 1) / 2)
        label = None if place else "random neurons of the same layers, a line a ranking"
        axis.plot(at, rows[f"random_{name}"], color=GREY, lw=1, marker=".", ms=4, label=label)
        axis.errorbar(at, rows[name], _reach(rows, name), color=LINES[place % len(LINES)], lw=1.2, ms=4.5,
                      elinewidth=1, marker=MARKERS[place % len(MARKERS)], label=f"by {by}")  # fmt: skip
    ks = sorted(means.k.unique())
    axis.set_xscale("log")
    axis.set_xticks(ks, [f"{k:,}" for k in ks])
    axis.set_xticks([], minor=True)
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)


def _reach(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Half of the 95% interval of a mean over classes, by Student's t; nothing where there is but one class."""
    from scipy.stats import t  # takes a second to import

    freedom = np.maximum(rows.classes.to_numpy(np.int64) - 1, 1)
    reach: NDArray[np.float64] = rows[f"{name}_se"].to_numpy(np.float64) * t.ppf(0.975, freedom)
    return reach
