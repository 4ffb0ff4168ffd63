"""Tables as people read them in a terminal: the columns that matter, in a hundred letters, rounded, with their units.

What is shown of which table and how columns are rounded is decided here alone. Files and programs (CSV, JSON, Parquet)
get every column as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ...schemas.numbers_shown import UNITS
from ...schemas.shown_text import escaped, shortened

WIDTH = 100  # letters of a line
GAP = "  "
LEAST_TEXT = 12  # letters that are left of a text where others need the room
FIGURES = 3  # significant figures of a column's largest value
BY = "by"  # stands for the ranking of key neurons: the column of that name

# The columns of every question's table that are shown without --wide, in their order.
MAIN: dict[str, tuple[str, ...]] = {
    "top": ("rank", "neuron", BY, "effect", "indirect", "score", "auroc", "mean_max", "post_mean"),
    "exemplars": ("rank", "image_id", "path", "label", "patch", "pre", "post"),
    "generate": ("id", "neuron", "step", "pre_mean", "post_mean", "ratio", "percentile", "p_class", "file"),
    "blocks": ("top", "class", "rank", "neuron", "block", "neurons", "share", "chance", "value", "of_first",
               "of_positive"),
    "activations": ("blocks", "rank", "neuron", "auroc", "mean_max", "mean_max_others", "n", "n_others"),
    "regions": ("path", "top", "rank", "neuron", "empty", "cover", "mask_share", "iou", "energy", "pointing"),
    "focus": ("class", "neuron", "n", "energy", "random_energy", "mask_share", "exceeds", "chance", "passes"),
    "concepts": ("neuron", "concept", "iou", "chance", "passes", "label", "negative"),
    "context": ("class", "images", "background", "contribution_outside", "chance",
                "lives_from_background", "energy_outside"),
    "ablate": ("measure", "n", "before", "after", "change", "se", "random", "random_low", "random_high", "passes"),
    "subject": ("class", "images", "mask_share", "share", "random", "random_high", "passes", "subject", "background",
                "prefix", "fall_subject", "fall_background"),
    "rankings": ("class", "ranking", "against", "k", "classes", "logit", "logit_se", "random_logit", "others_logit",
                 "specific", "accuracy", "others_accuracy", "difference", "low", "high", "tested", "p", "p_holm",
                 "differs"),
    "faithfulness": ("measure", "view", "step", "share", "probability", "area", "se", "random", "random_low",
                     "random_high", "passes", "n", "flat"),
    "logits": ("block", "part", "value", "std", "after", "others", "others_std", "others_after", "n", "others_n"),
    "carriers": ("rank", "neuron", "effective", "carried", "class", "weight", "share", "chance", "passes",
                 "effective_mean", "effective_low", "effective_high", "positive", "carried_weight"),
    "shared": ("class", "neuron", "n", "classes", "rank_in_unit", "own", "also_first_of"),
    "similarity": ("class_a", "class_b", "head", "value", "activation", "space", "merge", "cluster_a", "cluster_b",
                   "height", "n", "classes", "space_a", "space_b", "r", "pairs", "chance", "passes"),
    "selectivity": ("layer", "block", "neurons", "neuron", "class", "auroc", "worst_class", "worst_auroc",
                    "auroc_median", "auroc_90", "positive_share", "dead"),
    "agreement": ("block", "tokens", "n", "agreement", "chance", "class_value"),
    "composition": ("block", "tokens", "n", "compositional", "identifiability"),
    "pairs": ("rank", "neuron_a", "neuron_b", "a", "b", "sum", "gain", "chance", "passes"),
    "sets": ("set", "size", "neuron", "value", "by_score", "chance", "passes"),
    "composed": ("class", "neuron_a", "class_a", "neuron_b", "class_b", "sum", "chance", "passes"),
    "fires": ("neuron", "tokens", "first", "activation", "says", "class", "score", "rank_in_unit"),
}  # fmt: skip

DECIMALS = {  # of shares and the like, whose columns are read against each other
    name: 3
    for name in (
        "share", "chance", "of_first", "of_positive", "cover", "mask_share", "iou", "energy", "energy_se",
        "random_energy", "chance_masks", "chance_neurons", "pointing", "auroc", "worst_auroc", "auroc_median",
        "auroc_90", "positive_share", "agreement", "compositional", "identifiability", "head", "ratio", "background",
        "energy_outside", "energy_chance", "contribution_outside", "se",
    )
} | {"percentile": 1}  # fmt: skip


@dataclass(frozen=True)
class _Column:
    """A heading, the cells below it, whether they are numbers, and whether they may be cut: a neuron's name may not."""

    heading: str
    cells: list[str]
    is_number: bool
    may_be_cut: bool = False

    @property
    def width(self) -> int:
        return max(map(len, (self.heading, *self.cells)))

    def cut(self, most: int) -> _Column:
        cells = [shortened(cell, most - 3) if len(cell) > most else cell for cell in self.cells]
        return replace(self, cells=cells)

    def lines(self) -> list[str]:
        width = self.width
        return [cell.rjust(width) if self.is_number else cell.ljust(width) for cell in (self.heading, *self.cells)]


def readable(table: pd.DataFrame, question: str = "", wide: bool = False) -> tuple[str, str]:
    """A table's text, and a line about the columns that it leaves out ('' where it has all).

    Args:
        question: whose answer it is, a key of MAIN; the columns of any other table are shown from the left.
        wide: all columns, texts whole, however long the lines become.
    """
    if not len(table):
        return "no rows", ""
    whole = _with_neurons(table)
    chosen = [*whole.columns] if wide else _chosen(whole, question, table.attrs.get("by"))
    columns = [_column(str(name), whole[name]) for name in chosen]
    shown = columns if wide else _fitted(columns)
    lines = (GAP.join(line).rstrip() for line in zip(*(column.lines() for column in shown), strict=True))
    count = whole.shape[1]
    left_out = f"{len(shown)} of {count} columns; --wide shows all" if len(shown) < count else ""
    return "\n".join(lines), left_out


def _with_neurons(table: pd.DataFrame) -> pd.DataFrame:
    """layer and unit as one column LAYER:UNIT, as other commands take it; it names the block, too."""
    table = table.loc[:, ~table.columns.duplicated()]
    for end in ("", "_a", "_b"):
        layer, unit = f"layer{end}", f"unit{end}"
        if layer in table and unit in table:
            pairs = zip(table[layer], table[unit], strict=True)
            names = [None if pd.isna(at) or pd.isna(of) else f"{of}:{int(at)}" for of, at in pairs]
            place = list(table.columns).index(layer)
            table = table.drop(columns=[layer, unit, *(["block"] if not end and "block" in table else [])])
            table.insert(min(place, table.shape[1]), f"neuron{end}", pd.Series(names, table.index, dtype=object))
    return table


def _chosen(table: pd.DataFrame, question: str, by: Any) -> list[Any]:
    wanted = [by if name == BY else name for name in MAIN.get(question, table.columns)]
    return [name for name in dict.fromkeys(wanted) if name in table] or [*table.columns]


def _column(name: str, values: pd.Series[Any]) -> _Column:
    heading = escaped(f"{name} ({UNITS[name]})" if name in UNITS else name)
    if pd.api.types.is_bool_dtype(values):
        return _Column(heading, ["" if pd.isna(v) else "yes" if v else "no" for v in values], False)
    if pd.api.types.is_numeric_dtype(values):
        return _Column(heading, _numbers(values, DECIMALS.get(name)), True)
    texts = ["" if _missing(v) else escaped(str(v)) for v in values]
    return _Column(heading, texts, False, may_be_cut=not name.startswith("neuron"))


def _numbers(values: pd.Series[Any], decimals: int | None) -> list[str]:
    """Whole numbers as they are, others rounded alike in the whole column; nothing where a value is missing."""
    if pd.api.types.is_integer_dtype(values):
        return ["" if pd.isna(v) else str(int(v)) for v in values]
    finite = [abs(v) for v in values.astype(float) if math.isfinite(v)]
    largest = max(finite, default=0.0)
    if decimals is None:
        decimals = 0 if not largest else max(2, FIGURES - 1 - math.floor(math.log10(largest)))
    form = f".{decimals}f" if decimals <= 6 and largest < 1e6 else f".{FIGURES}g"
    return ["" if pd.isna(v) else format(round(float(v), decimals) + 0.0, form) for v in values]


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _fitted(columns: Sequence[_Column]) -> list[_Column]:
    """Columns in WIDTH letters: long texts are cut, then the last columns are left out. The first always stays."""
    columns = [*columns]
    while (over := _width(columns) - WIDTH) > 0:
        longest = max((c for c in columns if c.may_be_cut), key=lambda c: c.width, default=None)
        most = max(longest.width - over, LEAST_TEXT, len(longest.heading)) if longest else 0
        if longest is None or most >= longest.width:
            if len(columns) == 1:
                break
            columns.pop()
        else:
            columns[columns.index(longest)] = longest.cut(most)
    return columns


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)
