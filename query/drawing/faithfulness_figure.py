"""Insertion and deletion curves of views, beside random orders."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from .colours import COLOURS, GREY
from .figure_style import LABEL, new_axes

DASHED = "\nsolid: better than\nall random orders,\ndashed: not"


def faithfulness_figure(areas: pd.DataFrame, curves: pd.DataFrame, caption: str = "") -> Figure:
    """Mean probability against the share of patches, put in on the left and taken out on the right.

    Args:
        areas, curves: from insertion_deletion. The legends have the areas; dashed: not better than all
            random orders; without random orders all are solid.
    """
    figure, axes = new_axes(10.5, 3.6, caption, columns=2, sharey=True)
    for axis, (measure, rows) in zip(axes, curves.groupby("measure", sort=False), strict=True):
        chance = rows.drop_duplicates("step")
        beside = bool(chance.random.notna().all())
        for place, (view, one) in enumerate(rows.groupby("view", sort=False)):
            of_view = areas[(areas.measure == measure) & (areas["view"] == view)].iloc[0]
            colour = "black" if view == "centre" else COLOURS[place % len(COLOURS)]  # of no neuron
            style = "-" if of_view.passes or not beside else (0, (3, 2))
            axis.plot(one.share, one.probability, color=colour, lw=1.4, ls=style, label=f"{view} {of_view.area:.3f}")
        if beside:
            mean = areas[areas.measure == measure].random.iloc[0]
            axis.fill_between(chance.share, chance.random_low, chance.random_high, color=GREY, alpha=0.5, lw=0)
            axis.plot(chance.share, chance.random, color=GREY, lw=1, label=f"random orders {mean:.3f}")
        better = "larger" if measure == "insertion" else "smaller"
        axis.set(ylim=(0, 1), xlabel=f"share of patches {'put in' if measure == 'insertion' else 'taken out'}")
        title = f"{measure}: area,\n{better} is better"
        axis.legend(fontsize=LABEL, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5),
                    title=title + DASHED * beside, title_fontsize=LABEL)  # fmt: skip
    axes[0].set_ylabel("probability of the class, mean over images")
    return figure
