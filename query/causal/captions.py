"""What tables and figures of removed neurons show: of what, by what, over how many. A sentence a line."""

from __future__ import annotations

import pandas as pd

from ..drawing.terms import definitions
from ..lookups.class_images import labelled_images
from ..lookups.key_neurons import RANKINGS
from ..stored.stored_index import StoredIndex
from .rankings import RANDOM

REMOVED = ("ablation", "replacement", "logit of a class", "others_logit", "specific", "random neurons")


def of_rankings(index: StoredIndex, table: pd.DataFrame, replace: str, random: int) -> str:
    """Of the table of compare_rankings, its means and their figure."""
    rankings, ks = [*table.ranking.unique()], sorted(table.k.unique())
    classes, there = table.class_id.nunique(), labelled_images(index).class_id.nunique()
    of = f"{classes:,} of {there:,} classes" if classes < there else f"{classes:,} classes"
    missing = [by for by in RANKINGS if by not in rankings]
    own, others = table.accuracy_before.mean(), table.others_accuracy_before.mean()
    lines = (
        f"What a class's answer loses without its top {', '.join(f'{k:,}' for k in ks)} neurons, removed together "
        f"(replaced by {replace}), by {len(rankings)} rankings: {of}, {_range(table.n)} images of each and "
        f"{_range(table.n_others)} of other classes.",
        f"Accuracy with all neurons: {own:.3f} on a class's images, {others:.3f} on those of others.",
        f"Means over the classes and their 95% intervals. {_beside(random)}",
        f"Not compared: {', '.join(missing)}." if missing else "",
        definitions((*rankings, *REMOVED)),
    )
    return "\n".join(filter(None, lines))


def of_ranking_pairs(pairs: pd.DataFrame, measure: str, replace: str) -> str:
    """Of the table of ranking_pairs."""
    against = pairs.against.iloc[0] if len(pairs) else ""
    other = "random neurons of the same layers" if against == RANDOM else against
    lines = (
        f"Every ranking against {other}, class by class: change of {measure} without the top k neurons (replaced by "
        f"{replace}). Below 0: more is lost than by {other}.",
        "p: Wilcoxon's signed-rank test over the classes in which the two differ (tested), two-sided; p_holm: "
        f"corrected by Holm for the {len(pairs):,} rows; low, high: 95% interval of the mean by Student's t.",
        definitions((*dict.fromkeys(pairs.ranking), *REMOVED)),
    )
    return "\n".join(lines)


def _range(counts: pd.Series[int]) -> str:
    return f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"


def _beside(random: int) -> str:
    return (
        f"Grey: as many random neurons of the same layers, {random:,} set{'s' * (random > 1)} a class."
        if random
        else ""
    )
