"""Figures of classes and the neurons that speak for them. See figure_style for what all figures have in common."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...schemas.run_spec import Kind
from .colours import COLOURS, GREY
from .figure_style import CAPTION, INTERVAL, LABEL, MANY, TICK, block_ticks, new_axes, new_figure, plain, powers, short

MEASURES = {
    "mean_max": "largest patch",
    "mean": "mean of the patches",
    "post_mean": "mean of the patches",
    "cls_post_mean": "CLS token",
}
AFTER = ("post_mean", "cls_post_mean")  # the nonlinearity, where a layer has one
NEURONS: tuple[Kind, ...] = ("hidden",)
READ: dict[Kind, str] = {"gated": "what fc2 reads", "attention": "what attn.proj reads"}  # kinds of layers without one
ROWS = 20  # neurons of a panel, or shared neurons
PANEL_ROWS = 11  # panels below each other


def blocks_figure(blocks: pd.DataFrame, carried: pd.DataFrame, by: str, caption: str = "") -> Figure:
    """Left, in which blocks the first neurons sit; right, what each further one still has of the first."""
    figure, (left, right) = new_axes(9.5, 3.9, caption, 2)
    share = blocks.pivot(index="block", columns="top", values="share")
    pairs = blocks.groupby("top").neurons.sum()
    width = 0.8 / len(share.columns)
    for i, top in enumerate(share.columns):
        place = np.arange(len(share)) + (i - (len(share.columns) - 1) / 2) * width
        left.bar(place, share[top], width, color=COLOURS[i], label=f"top {top} (n = {pairs[top]:,})")
    chance = blocks.drop_duplicates("block").set_index("block").chance[share.index].to_numpy()
    left.step(np.arange(-1, len(share) + 1), np.r_[chance[0], chance, chance[-1]], where="mid", color="black", lw=1,
              ls="--", label="chance: the block's share of all neurons")  # fmt: skip
    left.set(xlabel="block", ylabel="share of the classes' top neurons", xlim=(-0.6, len(share) - 0.4))
    block_ticks(left, share.index.tolist(), range(len(share)))
    left.set_ylim(0, min(1.05 * max(share.max().max(), chance.max()), 1))
    left.legend(frameon=False, fontsize=TICK, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    _carried(right, carried)
    right.set(xlabel=f"rank in the class, by {by}", ylabel=f"{by} / the first neuron's", ylim=(0, None))
    right.legend(frameon=False, fontsize=TICK)
    return figure


def _carried(axis: Axes, carried: pd.DataFrame) -> None:
    """The median over the classes, and each class or, of many, where 50% and 90% of them lie."""
    ranks = carried.groupby("rank").of_first
    classes = carried.class_id.nunique()
    if classes <= MANY:
        for i, (_, one) in enumerate(carried.groupby("class_id")):
            axis.plot(one["rank"], one.of_first, color=GREY, lw=0.6, alpha=0.5, label=None if i else "one class each")
    else:
        for low, high, alpha in ((0.05, 0.95, 0.25), (0.25, 0.75, 0.45)):
            label = f"{high - low:.0%} of the classes"
            quantiles = ranks.quantile(low), ranks.quantile(high)
            axis.fill_between(quantiles[0].index, *quantiles, color=GREY, alpha=alpha, lw=0, label=label)
    median = ranks.median()
    axis.plot(median.index, median, color=COLOURS[0], lw=2, marker="o", ms=4, label=f"median of {classes:,} classes")
    axis.set_xticks(median.index)


def activations_figure(
    activations: pd.DataFrame,
    name: str,
    by: str,
    measure: str = "mean_max",
    kinds: Collection[Kind] = NEURONS,
    caption: str = "",
) -> Figure:
    """Each neuron's activation on the class's images against all others, the first ROWS of a group in a panel.

    kinds: of the layers that the neurons are of.
    """
    shown = activations[activations["rank"] <= ROWS]
    groups = list(dict.fromkeys(shown.blocks))
    columns = min(max(4, -(-len(groups) // PANEL_ROWS)), len(groups))
    rows = -(-len(groups) // columns)
    high = 0.16 * shown.groupby("blocks").size().max() + 0.75
    figure = new_figure(max(2.6 * columns + 0.6, 5), max(high, 1.6) * rows + 0.9, caption)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).reshape(-1)
    for axis, group in zip(axes, groups, strict=False):
        _against_others(axis, shown[shown.blocks == group], measure, short(name))
        axis.set_title("all blocks" if group == "all" else f"block {group}", fontsize=CAPTION)
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    for axis in axes[max(len(groups) - columns, 0) : len(groups)]:
        axis.tick_params(labelbottom=True)
    figure.supylabel(f"unit (block:unit), best by {by} first", fontsize=LABEL + 1)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, loc="outside lower center", ncols=2, fontsize=LABEL, title_fontsize=LABEL + 1,
        title=f"{_measured(measure, kinds)}, mean over the images",
    )  # fmt: skip
    return figure


def _measured(measure: str, kinds: Collection[Kind]) -> str:
    """What a column of activations holds, in layers of these kinds."""
    when = "after" if measure in AFTER else "before"
    of = [f"{when} the nonlinearity"] if "hidden" in kinds else []
    of += [f"of {what}" for kind, what in READ.items() if kind in kinds]
    return f"{MEASURES[measure]} {' or '.join(of)}"


def _against_others(axis: Axes, some: pd.DataFrame, measure: str, name: str) -> None:
    """One panel: two dots a neuron, with the middle half of the images where it is known; hollow: told by chance."""
    chance = (some.auroc - 0.5).abs() <= INTERVAL * (
        (some.n + some.n_others + 1) / (12 * some.n * some.n_others)
    ) ** 0.5
    place = np.arange(len(some))
    for end, colour, label, shift in (("_others", GREY, "all other classes", 0.14), ("", COLOURS[0], name, -0.14)):
        if measure == "mean_max" and f"max_25{end}" in some:
            axis.hlines(place + shift, some[f"max_25{end}"], some[f"max_75{end}"], color=colour, lw=2, alpha=0.45)
        axis.plot(some[f"{measure}{end}"], place + shift, "o", color=colour, ms=3.5, label=label)
        if not end:
            axis.plot(some[measure][chance], (place + shift)[chance], "o", color=colour, ms=3.5, mfc="white")
    all_blocks = some.blocks.iloc[0] == "all"
    labels = [f"{b}:{u}" if all_blocks else str(u) for b, u in zip(some.block, some.unit, strict=True)]
    axis.axvline(0, color="#cccccc", lw=0.8, zorder=0)
    axis.set_yticks(place, labels)
    axis.invert_yaxis()
    plain(axis)
    axis.tick_params(axis="y", labelsize=TICK)


def shared_figure(shared: pd.DataFrame, top: int, by: str, caption: str = "") -> Figure:
    """Left, the neurons that most classes share, and which classes those are; right, how many share how many."""
    most = shared.head(ROWS)
    figure, (left, right) = new_axes(10, 0.26 * max(len(most), 8) + 1, caption, 2, width_ratios=(2.4, 1))
    left.barh(range(len(most)), most.n, color=COLOURS[4])
    for place, names in enumerate(most.classes):
        left.annotate(short(names, 84), (0, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)
    left.set_yticks(range(len(most)), [f"{b}:{u}" for b, u in zip(most.block, most.unit, strict=True)], fontsize=TICK)
    left.set_ylim(max(len(most), 8) - 0.4, -0.6)
    title = f"the first {len(most)} of {len(shared):,} shared neurons" if len(shared) else "no neuron is shared"
    left.set_title(title, fontsize=CAPTION)
    left.set(xlabel=f"classes that have the neuron among their top {top} by {by}", ylabel="block:unit")
    counts = shared.n.value_counts().sort_index()
    right.bar(counts.index, counts, width=0.8, color=COLOURS[4])
    right.set_title("all of them", fontsize=9)
    right.set_xlim(1.4, max(counts.index.max() if len(counts) else 2, 4) + 0.6)
    right.set(xlabel="classes that share a neuron", ylabel="neurons", yscale="log" if len(shared) > MANY else "linear")
    if len(shared) > MANY:
        powers(right.yaxis)
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure
