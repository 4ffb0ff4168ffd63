"""The figure of how a logit builds up: what each block's attention and MLP add, and the sum as it grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .colours import COLOURS, GREY
from .figure_style import new_figure

BARS = {  # the parts of a block: where in it their bar stands, and its colour
    "attention units": (-0.3, COLOURS[0]),
    "attention bias": (-0.1, COLOURS[4]),
    "MLP neurons": (0.1, COLOURS[5]),
    "MLP bias": (0.3, COLOURS[1]),
}
ENDS = {"embedding": "embed.", "final norm's bias": "norm's\nbias", "head's bias": "head's\nbias"}  # outside of blocks
WIDTH = 0.19  # of a bar
WIDEST = 16.0  # inches


def logit_figure(terms: pd.DataFrame, caption: str = "") -> Figure:
    """Above, every term in logits; below, the logit as it stands after each. Both with one place a block.

    Args:
        terms: as from logit_terms.
        caption: whose logit it is, on which images.
    """
    blocks = int(terms.block.max()) + 1
    figure = new_figure(min(3.6 + 0.42 * blocks, WIDEST), 6.2, caption)
    above, below = figure.subplots(2, 1, sharex=True)
    places = _places(terms, blocks)
    _bars(above, terms, places)
    _sums(below, terms, places)
    step = -(-blocks // 24)
    shown = [*range(0, blocks, step)]
    ends = terms.block.isna().to_numpy()
    below.set_xticks(
        [*places[ends], *shown], [*(ENDS[part] for part in terms.part[ends]), *map(str, shown)], fontsize=8
    )
    below.set_xlabel("block")
    above.set_ylabel(f"added by the term (logits{', ± 1 s.d.' if _of_several(terms) else ''})")
    below.set_ylabel("sum so far (logits)")
    for axis in (above, below):
        axis.margins(x=0.02)
        axis.axhline(0, color="#cccccc", lw=0.8, zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.yaxis.set_major_locator(MaxNLocator(6))
    return figure


def _places(terms: pd.DataFrame, blocks: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Where each term stands: the embedding before block 0, in a block by its part, the last biases after all."""
    gap = max(1.0, blocks / 20)  # room for their labels
    outside = {"embedding": -gap, "final norm's bias": blocks - 1 + gap, "head's bias": blocks - 1 + 2 * gap}
    return np.array(
        [
            outside[part] if part in outside else float(block) + BARS[part][0]
            for block, part in zip(terms.block, terms.part, strict=True)
        ]
    )


def _bars(axis: Any, terms: pd.DataFrame, places: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    colours = {part: colour for part, (_, colour) in BARS.items()}
    for part in [*BARS, "outside of blocks"]:
        here = (terms.part == part).to_numpy() if part in BARS else terms.block.isna().to_numpy()
        spread = terms["std"][here] if _of_several(terms) else None
        axis.bar(
            places[here], terms.value[here], WIDTH if part in BARS else 2 * WIDTH, yerr=spread,
            color=colours.get(part, GREY), label=part, error_kw={"lw": 0.8, "ecolor": "#444444"},
        )  # fmt: skip
    if _compared(terms):
        axis.plot(places, terms.others, "o", ms=3, mfc="white", mec="black", mew=0.7, label="images of other classes")
    axis.legend(frameon=False, fontsize=8, ncols=3 if len(terms) < 60 else 6, loc="lower left", bbox_to_anchor=(0, 1))


def _sums(axis: Any, terms: pd.DataFrame, places: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """The sums after both terms of a branch: its units and its bias belong together."""
    ends = (~terms.part.isin(["attention units", "MLP neurons"])).to_numpy()
    at, sums = places[ends], terms[ends]
    if _compared(terms):
        label = f"images of other classes (n = {int(terms.others_n.iloc[0])})"
        axis.plot(at, sums.others_after, "s--", color=GREY, ms=3, lw=1.2, label=label)
        if sums.others_after_std.notna().all():
            spread = sums.others_after_std
            axis.fill_between(at, sums.others_after - spread, sums.others_after + spread, color=GREY, alpha=0.2, lw=0)
    label = f"images of the class (n = {int(terms.n.iloc[0])})" if "n" in terms else "this image"
    axis.plot(at, sums.after, "o-", color="black", ms=3.5, lw=1.5, label=label)
    if _of_several(terms):
        axis.fill_between(
            at, sums.after - sums.after_std, sums.after + sums.after_std, color=COLOURS[0], alpha=0.2, lw=0,
            label="± 1 standard deviation over images",
        )  # fmt: skip
    axis.annotate(f"{sums.after.iloc[-1]:.2f}", (at[-1], sums.after.iloc[-1]), xytext=(5, 0),
                  textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def _of_several(terms: pd.DataFrame) -> bool:
    return "std" in terms and bool(terms["std"].notna().all())


def _compared(terms: pd.DataFrame) -> bool:
    return "others" in terms and bool(terms.others.notna().all())
