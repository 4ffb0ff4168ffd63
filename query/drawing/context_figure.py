"""The figure of how much of what classes' neurons do lies on the background."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .colours import COLOURS
from .figure_style import INTERVAL, short
from .many_classes import Against, classes_figure, name_rows

OF_ALL = Against(
    "contribution_outside",
    "background",
    "contribution on the background",
    "the background's share",
    "lives_from_background",
    "lives from background",
    "does not",
)


def context_figure(context: pd.DataFrame, by: str, caption: str = "") -> Figure:
    """Shares of contribution and energy on the background, beside the background's share of the image and chance.

    Args:
        context: a row a class, as from class_context.
        by: the ranking of its neurons.
    """
    return classes_figure(context, OF_ALL, lambda axis, some: _rows(axis, some, by), caption, width=7.6, room=1.6)


def _rows(axis: Axes, context: pd.DataFrame, by: str) -> None:
    """A row a class."""
    place = np.arange(len(context))
    axis.plot(context.background, place, "|", color="black", ms=10, mew=1.5, label="background's share of the image")
    axis.plot(context.chance, place, "|", color=COLOURS[5], ms=10, mew=1.5,
              label="chance: background + largest of 19 differences")  # fmt: skip
    axis.plot(context.energy_outside, place, "o", color=COLOURS[1], ms=4, label="energy on it")
    share, error = context.contribution_outside.to_numpy(), INTERVAL * context.se.to_numpy()
    axis.hlines(place, share - error, share + error, color=COLOURS[0], lw=1.3)
    lives = context.lives_from_background.to_numpy(bool)
    label = f"contribution on it, neurons by {by}: mean, 95% interval"
    axis.plot(share, place, "D", color=COLOURS[0], mfc="white", ms=5, label=label)
    axis.plot(share[lives], place[lives], "D", color=COLOURS[0], ms=5, label="the same: lives from background")
    names = [f"{short(name)}  (n = {n})" for name, n in zip(context["class"], context.images, strict=True)]
    name_rows(axis, names, "share that lies outside the object's mask")
