"""Figures of neurons, by block or by class: a table in, a matplotlib Figure out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from .colours import COLOURS, GREY
from .figure_style import new_axes


def focus_figure(focus: pd.DataFrame, by: str) -> Figure:
    """Energy inside the object: the first neuron, random neurons of its block, and the mask's share of the image."""
    figure, (axis,) = new_axes(6.4, 0.34 * len(focus) + 1.4)
    place = np.arange(len(focus))
    spots = {"mask_share": ("|", GREY), "random_energy": ("o", COLOURS[1]), "energy": ("D", COLOURS[0])}
    names = {"mask_share": "mask's share of the image", "random_energy": "random neurons of its block"}
    for column, (marker, colour) in spots.items():
        size = 11 if marker == "|" else 6
        label = names.get(column, f"first key neuron by {by}")
        axis.plot(focus[column], place, marker, color=colour, ms=size, mew=2 if marker == "|" else 1, label=label)
    ticks = [f"{c}  {b}:{u}" for c, b, u in zip(focus["class"], focus.block, focus.unit, strict=True)]
    axis.set_yticks(place, ticks, fontsize=8)
    axis.invert_yaxis()
    axis.set(xlim=(-0.02, 1.02), xlabel="share of positive activation inside the object's mask")
    axis.grid(axis="y", color="#eeeeee")
    figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def concepts_figure(concepts: pd.DataFrame) -> Figure:
    """Left, how many neurons detect each concept; right, the best IoU of every neuron, by block."""
    figure, (left, right) = new_axes(9, 3.6, 2)
    count = concepts.label.value_counts().head(20)[::-1]
    left.barh(count.index, count, color=COLOURS[0])
    left.set(xlabel="neurons labelled (IoU > 0.04)")
    ious = {label: np.sort(one.iou.dropna())[::-1] for label, one in _by_layer(concepts).items()}
    shades = np.linspace(0.15, 0.9, len(ious))
    for shade, (label, values) in zip(shades, ious.items(), strict=True):
        right.plot(np.arange(1, len(values) + 1), values, color=colormaps["viridis"](shade), label=f"block {label}")
    right.axhline(0.04, color=GREY, ls="--", lw=1)
    right.set(xscale="log", xlabel="neurons of the block, best first", ylabel="IoU with the best concept")
    right.legend(frameon=False, fontsize=8, ncols=2 if len(ious) > 6 else 1)
    return figure


def selectivity_figure(neurons: pd.DataFrame) -> Figure:
    """By block: the best class's AUROC of every neuron, the share of positive patches, dead neurons."""
    figure, (auroc, sparse, dead) = new_axes(10, 3.2, 3)
    layers = _by_layer(neurons)
    style = {
        "showfliers": False,
        "patch_artist": True,
        "boxprops": {"facecolor": COLOURS[4]},
        "medianprops": {"color": "black"},
        "whis": (5, 95),
    }
    for axis, column in ((auroc, "auroc"), (sparse, "positive_share")):
        axis.boxplot([one[column].dropna() for one in layers.values()], tick_labels=list(layers), **style)
    place = np.arange(len(layers))
    dead.bar(place - 0.2, [one.dead.sum() for one in layers.values()], 0.4, color=GREY, label="dead")
    dead.bar(place + 0.2, [one.no_region.sum() for one in layers.values()], 0.4, color=COLOURS[1], label="q99 below 0")
    dead.set_xticks(place, list(layers))
    if len(layers) > neurons.block.nunique():  # the labels are names
        for axis in (auroc, sparse, dead):
            axis.tick_params(axis="x", rotation=90, labelsize=8)
    dead.legend(frameon=False, fontsize=8)
    auroc.set(xlabel="block", ylabel="AUROC of the best class")
    sparse.set(xlabel="block", ylabel="share of patches with a > 0")
    dead.set(xlabel="block", ylabel="neurons")
    return figure


def _by_layer(neurons: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The neurons of each layer, in order of blocks, by the block's number; where blocks hold several, by name too."""
    groups = {(block, str(layer)): one for (block, layer), one in neurons.groupby(["block", "layer"])}
    if len(groups) == neurons.block.nunique():
        return {str(block): one for (block, _), one in groups.items()}
    return {f"{block} {_in_block(layer, block)}": one for (block, layer), one in groups.items()}


def _in_block(layer: str, block: object) -> str:
    """A layer's name in its block, short: fc1, fc2, fc2.input, attn."""
    return layer.removeprefix(f"blocks.{block}.").removeprefix("mlp.").removesuffix(".proj.input")


def lines_figure(table: pd.DataFrame, columns: dict[str, str]) -> Figure:
    """Lines over the blocks, a panel a column (name to label), a line a kind of token where they differ."""
    figure, axes = new_axes(3.6 * len(columns) + 0.4, 3.2, len(columns))
    for axis, (column, label) in zip(axes, columns.items(), strict=True):
        of_tokens = table.groupby("block")[column].nunique().max() > 1
        kinds = table.groupby("tokens") if of_tokens else [("", table.drop_duplicates("block"))]
        for i, (kind, one) in enumerate(k for k in kinds if k[0] != "all"):
            axis.plot(one.block, one[column], "o-", color=COLOURS[i], ms=4, label=kind)
        if of_tokens and "chance" in table:
            axis.plot(table.block, table.chance, color=GREY, ls="--", lw=1, label="chance")
        if of_tokens:
            axis.legend(frameon=False, fontsize=8)
        axis.set_xticks(sorted(table.block.unique()))
        axis.set(xlabel="block", ylabel=label, ylim=(0, None))
    return figure


def fires_figure(fires: pd.DataFrame, title: str) -> Figure:
    """What the neurons that fire on an image say of its class, block by block; the area is the number of tokens."""
    figure, (axis,) = new_axes(6, 3.6)
    some = fires.dropna(subset=["score"])
    axis.axhline(0, color="#cccccc", lw=0.8)
    first = some.rank_in_unit == 1
    for chosen, colour, name in (
        (~first, GREY, "says another class louder"),
        (first, COLOURS[0], "says this class loudest"),
    ):
        one = some[chosen]
        axis.scatter(one.block, one.score, 4 * one.tokens.astype(float), color=colour, alpha=0.5, lw=0, label=name)
    axis.set_xticks(sorted(fires.block.unique()))
    axis.set(xlabel="block", ylabel="score for the image's class", title=title)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=8)
    return figure
