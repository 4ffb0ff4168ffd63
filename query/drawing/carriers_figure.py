"""The figure of neurons that carry several classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...schemas.numbers_shown import UNITS
from .colours import COLOURS, GREY
from .figure_style import CAPTION, LABEL, MANY, TICK, new_figure, plain, powers, short

SHOWN = 8  # neurons
LINE = 0.15  # inches of a class


def carriers_figure(carriers: pd.DataFrame, classes: pd.DataFrame, by: str, caption: str = "") -> Figure:
    """Left, the first carriers with their classes' weights; right, to how many classes all neurons give, and chance.

    Args:
        carriers: a row a neuron, as from carrier_neurons.
        classes: a row a neuron and class, as from carried_classes.
        by: what weighs.
    """
    shown = classes[classes["rank"] <= SHOWN]
    figure = new_figure(11, max(LINE * (len(shown) + shown["rank"].nunique()) + 1, 4.6), caption)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    left, above, below = (figure.add_subplot(part) for part in (grid[:, 0], grid[0, 1], grid[1, 1]))
    for axis in (left, above, below):
        plain(axis)
    _bars(left, shown, by)
    count = int((carriers.carried > 1).sum())
    title = f"the first {shown['rank'].nunique()} of {count:,} neurons that carry several classes"
    left.set_title(title if count else "no neuron carries several classes", fontsize=CAPTION)
    _effective(above, carriers)
    _carried(below, carriers)
    return figure


def _bars(axis: Axes, shown: pd.DataFrame, by: str) -> None:
    """A bar a class, a gap between neurons; hollow: no more than chance."""
    place = np.arange(len(shown)) + shown["rank"].to_numpy(np.float64) - 1
    filled = [COLOURS[0] if passes else "white" for passes in shown.passes]
    axis.barh(place, shown.weight, 0.8, color=filled, edgecolor=COLOURS[0], lw=0.8)
    for at, width, share in zip(place, shown.weight, shown.share, strict=True):
        axis.annotate(
            _percent(share), (width, at), xytext=(3, 0), textcoords="offset points", va="center", fontsize=TICK
        )
    axis.plot(shown.chance, place, "|", color=COLOURS[5], ms=6, mew=1.3, label="chance: the largest of any class")
    first = ~shown["rank"].duplicated()
    neurons = np.where(first, shown.block.astype(str) + ":" + shown.unit.astype(str) + "   ", "")
    names = [neuron + short(name, 22) for neuron, name in zip(neurons, shown["class"], strict=True)]
    axis.set_yticks(place, names, fontsize=TICK)
    axis.set_ylim(max(float(place.max(initial=0)), 8) + 0.6, -0.6)
    axis.margins(x=0.08)
    unit = f" ({UNITS[by]})" if by in UNITS else ""
    axis.set_xlabel(f"{by}{unit}; beside each bar its share of the neuron's positive sum")
    if len(shown):
        axis.legend(frameon=False, fontsize=TICK, loc="lower right")


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.01 else f"{share:.0%}"


def _effective(axis: Axes, carriers: pd.DataFrame) -> None:
    """Histograms of the effective number of classes."""
    real, chance = carriers.effective.dropna(), carriers.effective_mean.dropna()
    end = max(real.max() if len(real) else 1, chance.max() if len(chance) else 1, 1.1)
    bins = np.linspace(1, end, 40).tolist()
    axis.hist(real, bins, color=COLOURS[0], alpha=0.75, label=f"value vectors, median {real.median():.1f}")
    label = f"shuffled head, median {chance.median():.1f}"
    axis.hist(chance, bins, histtype="step", color="black", ls="--", label=label)
    axis.set_title(f"all {len(carriers):,} neurons", fontsize=CAPTION)
    axis.set(xlabel="effective number of classes", ylabel="neurons")
    axis.legend(frameon=False, fontsize=TICK)


def _carried(axis: Axes, carriers: pd.DataFrame) -> None:
    """How many neurons carry how many classes."""
    counts = carriers.carried.value_counts().sort_index()
    axis.bar(counts.index, counts, 0.8, color=[GREY if carried < 2 else COLOURS[0] for carried in counts.index])
    axis.set(xlabel="classes that a neuron gives more than chance", ylabel="neurons")
    if len(carriers) > MANY:
        axis.set_yscale("log")
        powers(axis.yaxis)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.label.set_fontsize(LABEL + 1)
