"""Figures of classes: a table in, a matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...schemas.run_spec import Kind
from .colours import COLOURS, GREY
from .figure_style import PlainFigure, new_axes

MEASURES = {
    "mean_max": "largest patch",
    "mean": "mean of the patches",
    "post_mean": "mean of the patches",
    "cls_post_mean": "CLS token",
}
AFTER = ("post_mean", "cls_post_mean")  # the nonlinearity, where a layer has one
NEURONS: tuple[Kind, ...] = ("hidden",)
READ: dict[Kind, str] = {"gated": "what fc2 reads", "attention": "what attn.proj reads"}  # kinds of layers without one


def blocks_figure(blocks: pd.DataFrame, carried: pd.DataFrame, by: str) -> Figure:
    """Left, in which blocks the first neurons sit; right, what each further one still has of the first."""
    figure, (left, right) = new_axes(9, 3.4, 2)
    share = blocks.pivot(index="block", columns="top", values="share")
    width = 0.8 / len(share.columns)
    for i, top in enumerate(share.columns):
        place = np.arange(len(share)) + (i - (len(share.columns) - 1) / 2) * width
        left.bar(place, share[top], width, color=COLOURS[i], label=f"top {top} by {by}")
    left.set_xticks(range(len(share)), share.index)
    left.set(xlabel="block", ylabel="share of the classes' top neurons")
    left.legend(frameon=False)
    for _, one in carried.groupby("class_id"):
        right.plot(one["rank"], one.of_first, color=GREY, lw=0.6, alpha=0.5)
    median = carried.groupby("rank").of_first.median()
    right.plot(median.index, median, color=COLOURS[0], lw=2, marker="o", ms=4, label="median of the classes")
    right.set_xticks(median.index)
    right.set(xlabel=f"rank in the class, by {by}", ylabel=f"{by} / the first neuron's")
    right.legend(frameon=False)
    return figure


def activations_figure(
    activations: pd.DataFrame, title: str, by: str, measure: str = "mean_max", kinds: Collection[Kind] = NEURONS
) -> Figure:
    """Each neuron's activation on the class's images against all others, ten a group; `kinds` of layers they are of."""
    groups = list(dict.fromkeys(activations.blocks))
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    figure = PlainFigure(figsize=(2.6 * columns + 0.6, 2.5 * rows + 0.5), layout="constrained", dpi=130)
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
    figure.supxlabel(f"{_measured(measure, kinds)}, mean over the images", fontsize=9)
    figure.supylabel(f"unit (block:unit), best by {by} first", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=2)
    return figure


def _measured(measure: str, kinds: Collection[Kind]) -> str:
    """What a column of activations holds, in layers of these kinds."""
    when = "after" if measure in AFTER else "before"
    of = [f"{when} the nonlinearity"] if "hidden" in kinds else []
    of += [f"of {what}" for kind, what in READ.items() if kind in kinds]
    return f"{MEASURES[measure]} {' or '.join(of)}"


def similarity_figure(similarity: pd.DataFrame) -> Figure:
    """Pairs of classes: similarity of head rows against similarity of activation."""
    figure, (axis,) = new_axes(5, 4)
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
    axis.set_title(f"{len(similarity):,} pairs of classes{_correlation(similarity)}", fontsize=9)
    axis.set(xlabel="cosine of the head's rows", ylabel="cosine of the classes' activation")
    return figure


def _correlation(similarity: pd.DataFrame) -> str:
    """ ", r = ...", and nothing where one of the two does not vary: a pair alone, or images alike."""
    both = similarity[["head", "activation"]].to_numpy(np.float64)
    if (np.ptp(both, axis=0) < 1e-6).any():
        return ""
    return f", r = {np.corrcoef(both.T)[0, 1]:.2f}"


def shared_figure(shared: pd.DataFrame, top: int, by: str) -> Figure:
    """The neurons that most classes share, and which classes those are."""
    most = shared.head(20)
    figure, (axis,) = new_axes(7, 0.3 * max(len(most), 2) + 1)
    axis.barh(range(len(most)), most.n, color=COLOURS[4])
    for place, names in enumerate(most.classes):
        axis.annotate(names[:90], (0, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(most)), [f"{b}:{u}" for b, u in zip(most.block, most.unit, strict=True)], fontsize=8)
    axis.invert_yaxis()
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel=f"classes that have the neuron among their top {top} by {by}", ylabel="block:unit")
    return figure
