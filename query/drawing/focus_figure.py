"""The figure of whether neurons look at the object: a row a class, or of many classes the extremes and all as dots."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .colours import COLOURS
from .figure_style import INTERVAL, short
from .many_classes import Against, classes_figure, name_rows

AGAINST = Against(
    "energy", "random_energy", "energy of the first neuron", "energy of random neurons",
    "passes", "passes", "does not pass",
)  # fmt: skip


def focus_figure(focus: pd.DataFrame, by: str, caption: str = "") -> Figure:
    """Energy inside the object: the first neuron, random neurons of its block, the mask's share, and chance."""
    return classes_figure(focus, AGAINST, lambda axis, rows: _rows(axis, rows, by), caption, width=7.2, room=1.3)


def _rows(axis: Axes, focus: pd.DataFrame, by: str) -> None:
    """A row a class: dots with their intervals."""
    place = np.arange(len(focus))
    axis.hlines(place, focus.random_05, focus.random_95, color=COLOURS[1], lw=5, alpha=0.3,
                label="90% of the random neurons")  # fmt: skip
    axis.plot(focus.random_energy, place, "o", color=COLOURS[1], ms=5, label="random neurons of its block, mean")
    axis.plot(focus.mask_share, place, "|", color="black", ms=10, mew=1.5, label="mask's share of the image")
    axis.plot(focus.chance, place, "|", color=COLOURS[5], ms=10, mew=1.5, label="chance, passed once in 20")
    error = INTERVAL * focus.energy_se.to_numpy()
    axis.hlines(place, focus.energy - error, focus.energy + error, color=COLOURS[0], lw=1.3)
    label = f"first key neuron by {by}, mean and 95% interval"
    passes = focus.passes.to_numpy(bool)
    axis.plot(focus.energy[passes], place[passes], "D", color=COLOURS[0], ms=5, label=label)
    axis.plot(focus.energy[~passes], place[~passes], "D", color=COLOURS[0], ms=5, mfc="white",
              label="the same: does not pass chance and the mask's share")  # fmt: skip
    rows = zip(focus["class"], focus.block, focus.unit, focus.n.astype(int), strict=True)
    names = [f"{short(name)}  {block}:{unit}  (n = {n})" for name, block, unit, n in rows]
    name_rows(axis, names, "energy: share of positive activation inside the object's mask")
