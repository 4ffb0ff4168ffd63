"""What an answer loses without neurons: a row a measure, beside random neurons."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .colours import COLOURS
from .figure_style import INTERVAL, LABEL, new_axes, short


def ablation_figure(table: pd.DataFrame, caption: str = "") -> Figure:
    """Changes in logits on the left, in shares on the right; a hollow mark is no more than random neurons do."""
    logits = table.measure.isin(("logit", "margin", "others_logit")).to_numpy()
    figure, axes = new_axes(9.5, 2.6, caption, columns=2)
    for axis, rows, unit in ((axes[0], table[logits], "logits"), (axes[1], table[~logits], "share")):
        place = np.arange(len(rows))
        axis.axvline(0, color="black", lw=0.8, ls="--")
        axis.hlines(place, rows.random_low, rows.random_high, color=COLOURS[1], lw=5, alpha=0.4,
                    label="random neurons, all sets")  # fmt: skip
        error = INTERVAL * rows.se.to_numpy()
        axis.hlines(place, rows.change - error, rows.change + error, color=COLOURS[0], lw=1.3)
        passes = rows.passes.to_numpy(bool)
        axis.plot(rows.change[passes], place[passes], "D", color=COLOURS[0], ms=5, label="mean and 95% interval")
        axis.plot(rows.change[~passes], place[~passes], "D", color=COLOURS[0], ms=5, mfc="white",
                  label="the same: no more than random neurons")  # fmt: skip
        axis.set_yticks(place, [f"{short(name)}  (n = {n:,})" for name, n in zip(rows.measure, rows.n, strict=True)])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlabel(f"change ({unit})")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=3, fontsize=LABEL)
    return figure
