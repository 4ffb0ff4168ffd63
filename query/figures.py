"""The figures of dissection: a table in, a matplotlib Figure out. Colours after Okabe and Ito and Tol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from ..schemas.errors import QueryError

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#DDCC77", "#117733", "#882255")
GREY = "#999999"
KINDS = {
    "mean_max": "largest patch before the nonlinearity",
    "mean": "mean of the patches before the nonlinearity",
    "post_mean": "mean of the patches after the nonlinearity",
    "cls_post_mean": "CLS token after the nonlinearity",
}


def save(figure: Figure, picture: Path) -> None:
    """Write a figure. Raises QueryError for a kind of file that matplotlib cannot write."""
    try:
        figure.savefig(picture)
    except ValueError as error:
        raise QueryError(f"no picture of the kind '{picture.suffix}'", "Name it .png, .pdf or .svg.") from error


def _axes(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def blocks_figure(blocks: pd.DataFrame, carried: pd.DataFrame) -> Figure:
    """Left, in which blocks the first neurons sit; right, what each further one still has of the first."""
    figure, (left, right) = _axes(9, 3.4, 2)
    share = blocks.pivot(index="block", columns="top", values="share")
    width = 0.8 / len(share.columns)
    for i, top in enumerate(share.columns):
        place = np.arange(len(share)) + (i - (len(share.columns) - 1) / 2) * width
        left.bar(place, share[top], width, color=COLOURS[i], label=f"top {top}")
    left.set_xticks(range(len(share)), share.index)
    left.set(xlabel="block", ylabel="share of the classes' neurons")
    left.legend(frameon=False)
    for _, one in carried.groupby("class_id"):
        right.plot(one["rank"], one.of_first, color=GREY, lw=0.6, alpha=0.5)
    median = carried.groupby("rank").of_first.median()
    right.plot(median.index, median, color=COLOURS[0], lw=2, marker="o", ms=4, label="median of the classes")
    right.set_xticks(median.index)
    right.set(xlabel="rank in the class", ylabel="value / the first neuron's")
    right.legend(frameon=False)
    return figure


def activations_figure(activations: pd.DataFrame, title: str, measure: str = "mean_max") -> Figure:
    """Each neuron's activation on the class's images against all others, ten a group."""
    groups = list(dict.fromkeys(activations.blocks))
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.6, 2.5 * rows + 0.5), layout="constrained", dpi=130)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).reshape(-1)
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    for axis in axes[:-columns][len(groups) - len(axes) :] if len(groups) < len(axes) and rows > 1 else ():
        axis.tick_params(labelbottom=True)
    for axis, group in zip(axes, groups, strict=False):
        some = activations[activations.blocks == group]
        axis.hlines(some["rank"], some[f"{measure}_others"], some[measure], color=GREY, lw=1)
        axis.plot(some[f"{measure}_others"], some["rank"], "o", color=GREY, ms=4, label="all other classes")
        axis.plot(some[measure], some["rank"], "o", color=COLOURS[0], ms=4, label=title)
        labels = [f"{b}:{u}" if group == "all" else str(u) for b, u in zip(some.block, some.unit, strict=True)]
        axis.set_yticks(some["rank"], labels, fontsize=7)
        axis.set_title("all blocks" if group == "all" else f"block {group}", fontsize=9)
        axis.invert_yaxis()
        axis.axvline(0, color="#cccccc", lw=0.8, zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(f"{KINDS[measure]}, mean over the images", fontsize=9)
    figure.supylabel("unit (block:unit), best first", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=2)
    return figure


def focus_figure(focus: pd.DataFrame) -> Figure:
    """Energy inside the object: the first neuron, random neurons of its block, and the mask's share of the image."""
    figure, (axis,) = _axes(6.4, 0.34 * len(focus) + 1.4)
    place = np.arange(len(focus))
    spots = {"mask_share": ("|", GREY), "random_energy": ("o", COLOURS[1]), "energy": ("D", COLOURS[0])}
    names = {"mask_share": "mask's share of the image", "random_energy": "random neurons of its block"}
    for column, (marker, colour) in spots.items():
        size = 11 if marker == "|" else 6
        label = names.get(column, "first key neuron")
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
    figure, (left, right) = _axes(9, 3.6, 2)
    count = concepts.label.value_counts().head(20)[::-1]
    left.barh(count.index, count, color=COLOURS[0])
    left.set(xlabel="neurons labelled (IoU > 0.04)")
    ious = {b: np.sort(one.iou.dropna())[::-1] for b, one in concepts.groupby("block")}
    shades = np.linspace(0.15, 0.9, len(ious))
    for shade, (block, values) in zip(shades, ious.items(), strict=True):
        right.plot(
            np.arange(1, len(values) + 1), values, color=colormaps["viridis"](shade), label=f"block {int(str(block))}"
        )
    right.axhline(0.04, color=GREY, ls="--", lw=1)
    right.set(xscale="log", xlabel="neurons of the block, best first", ylabel="IoU with the best concept")
    right.legend(frameon=False, fontsize=8, ncols=2 if len(ious) > 6 else 1)
    return figure


def similarity_figure(similarity: pd.DataFrame) -> Figure:
    """Pairs of classes: similarity of head rows against similarity of activation."""
    figure, (axis,) = _axes(5, 4)
    axis.plot(similarity["head"], similarity.activation, "o", ms=4, color=COLOURS[0], alpha=0.7, mew=0)
    nearest: list[Any] = list(similarity.nlargest(4, "activation").itertuples())
    for row in nearest:
        axis.annotate(
            f"{row.class_a}, {row.class_b}",
            (row.head, row.activation),
            fontsize=7,
            xytext=(-5, 4),
            textcoords="offset points",
            ha="right",
        )
    r = float(np.corrcoef(similarity["head"], similarity.activation)[0, 1])
    axis.set_title(f"{len(similarity):,} pairs of classes, r = {r:.2f}", fontsize=9)
    axis.set(xlabel="cosine of the head's rows", ylabel="cosine of the classes' activation")
    return figure


def selectivity_figure(neurons: pd.DataFrame) -> Figure:
    """By block: the best class's AUROC of every neuron, the share of positive patches, dead neurons."""
    figure, (auroc, sparse, dead) = _axes(10, 3.2, 3)
    blocks = sorted(neurons.block.unique())
    style = {
        "showfliers": False,
        "patch_artist": True,
        "boxprops": {"facecolor": COLOURS[4]},
        "medianprops": {"color": "black"},
        "whis": (5, 95),
    }
    for axis, column in ((auroc, "auroc"), (sparse, "positive_share")):
        values = [neurons.loc[neurons.block == b, column].dropna() for b in blocks]
        axis.boxplot(values, tick_labels=blocks, **style)
    counts = neurons.groupby("block")[["dead", "no_region"]].sum()
    place = np.arange(len(blocks))
    dead.bar(place - 0.2, counts.dead, 0.4, color=GREY, label="dead")
    dead.bar(place + 0.2, counts.no_region, 0.4, color=COLOURS[1], label="q99 below 0")
    dead.set_xticks(place, blocks)
    dead.legend(frameon=False, fontsize=8)
    auroc.set(xlabel="block", ylabel="AUROC of the best class")
    sparse.set(xlabel="block", ylabel="share of patches with a > 0")
    dead.set(xlabel="block", ylabel="neurons")
    return figure


def lines_figure(table: pd.DataFrame, columns: dict[str, str]) -> Figure:
    """Lines over the blocks, a panel a column (name to label), a line a kind of token where they differ."""
    figure, axes = _axes(3.6 * len(columns) + 0.4, 3.2, len(columns))
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


def sums_figure(pairs: pd.DataFrame, title: str, by: str) -> Figure:
    """Each pair's two parts and their sum."""
    figure, (axis,) = _axes(6.4, 0.3 * len(pairs) + 1.5)
    place = np.arange(len(pairs))
    axis.hlines(place, pairs[["a", "b"]].max(axis=1), pairs["sum"], color=GREY, lw=1)
    axis.plot(pairs.a, place, "o", ms=5, color=COLOURS[4], label="one alone")
    axis.plot(pairs.b, place, "o", ms=5, mfc="none", color=COLOURS[4], label="the other alone")
    axis.plot(pairs["sum"], place, "D", ms=5, color=COLOURS[0], label="their sum")
    units = zip(pairs.layer_a, pairs.unit_a, pairs.layer_b, pairs.unit_b, strict=True)
    names = [f"{_short(layer_a)}:{a} + {_short(layer_b)}:{b}" for layer_a, a, layer_b, b in units]
    if "class" in pairs:
        parts = zip(pairs.class_a, pairs.class_b, pairs["class"], strict=True)
        names = [f"{a} + {b} = {whole}" for a, b, whole in parts]
    axis.set_yticks(place, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(f"{by} of {title}")
    figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def sets_figure(sets: pd.DataFrame, title: str, by: str) -> Figure:
    """How the value grows with every neuron that joins, against as many neurons with the largest scores."""
    figure, (axis,) = _axes(5, 3.4)
    for i, (_, one) in enumerate(sets.groupby("set")):
        axis.plot(one["size"], one.value, "o-", ms=4, color=COLOURS[i % len(COLOURS)], label=f"from pair {i + 1}")
    longest = sets[sets.set == sets.groupby("set").size().idxmax()]
    axis.plot(longest["size"], longest.by_score, "--", color="black", lw=1.5, label="largest scores")
    axis.set_xticks(longest["size"])
    axis.set(xlabel="neurons summed", ylabel=f"{by} of {title}")
    axis.legend(frameon=False, fontsize=8)
    return figure


def shared_figure(shared: pd.DataFrame) -> Figure:
    """The neurons that most classes share, and which classes those are."""
    most = shared.head(20)
    figure, (axis,) = _axes(7, 0.3 * max(len(most), 2) + 1)
    axis.barh(range(len(most)), most.n, color=COLOURS[4])
    for place, names in enumerate(most.classes):
        axis.annotate(names[:90], (0, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(most)), [f"{b}:{u}" for b, u in zip(most.block, most.unit, strict=True)], fontsize=8)
    axis.invert_yaxis()
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="classes that share the neuron", ylabel="block:unit")
    return figure


def fires_figure(fires: pd.DataFrame, title: str) -> Figure:
    """What the neurons that fire on an image say of its class, block by block; the area is the number of tokens."""
    figure, (axis,) = _axes(6, 3.6)
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


def _short(layer: str) -> str:
    """The block's number in a layer's name."""
    number: str = next(part for part in layer.split(".") if part.isdecimal())
    return number
