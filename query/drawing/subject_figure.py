"""The figure of how much of what classes' neurons cause lies on the object."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .colours import COLOURS, GREY
from .figure_style import short
from .many_classes import Against, classes_figure, name_rows

OF_ALL = Against(
    "share",
    "mask_share",
    "share on the object",
    "the object's share of the patches",
    "passes",
    "on the object, more than random neurons",
    "no more than the mask or random neurons",
)


def subject_figure(table: pd.DataFrame, caption: str = "") -> Figure:
    """Shares of |effect| on the object, beside the object's share of the patches and random neurons.

    Args:
        table: a row a class, as from subject_effects.
    """
    return classes_figure(table, OF_ALL, _rows, caption, width=7.6, room=1.6)


def _rows(axis: Axes, table: pd.DataFrame) -> None:
    """A row a class."""
    place, passes = np.arange(len(table)), table.passes.to_numpy(bool)
    axis.hlines(
        place, table.random_low, table.random_high, color=GREY, lw=6, alpha=0.5, label="random neurons, all sets"
    )
    axis.plot(table.mask_share, place, "|", color="black", ms=10, mew=1.5, label="object's share of the patches")
    axis.plot(
        table.share[~passes],
        place[~passes],
        "D",
        color=COLOURS[0],
        mfc="white",
        ms=5,
        label="share of |effect| on the object",
    )
    axis.plot(table.share[passes], place[passes], "D", color=COLOURS[0], ms=5, label="the same: passes")
    names = [f"{short(name)}  (n = {n})" for name, n in zip(table["class"], table.images, strict=True)]
    name_rows(axis, names, "share of |effect| on the object, of that on all patches")
