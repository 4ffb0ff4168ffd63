"""Whether the model's answers are right: its accuracy, and the order of its rows where nobody says which it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ...data.labels.class_names import ClassNames
from ...data.labels.image_labels import image_classes, label_rows

TOP_FROM = 10  # classes from which on top-5 accuracy says something
DEVIATIONS = 3  # standard deviations beyond chance that count as more than chance

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Accuracy:
    """The model's answers on images with a class: shares from 0 to 1.

    `chance` is the share that would be right if the same answers were dealt to the images at random; `top5` is None
    with fewer than ten classes.
    """

    images: int
    top1: float
    top5: float | None
    chance: float

    @property
    def warning(self) -> str | None:
        """What to say where the answers are no better than dealt ones, and the images are enough to tell."""
        limit = self.chance + DEVIATIONS * sqrt(self.chance * (1 - self.chance) / self.images)
        if not self.top1 <= limit < 1:
            return None
        return (
            f"a top-1 accuracy of {self.top1:.1%} is no more than chance. Are the head's rows named in the order of "
            "its training (--class-names), and the images by their right labels (--labels)?"
        )

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


def accuracy(answers: Ints, places: Ints, labels: Ints, classes: int) -> Accuracy | None:
    """Of `answers` (classes with the largest logit) to `labels`, -1 where there is none; None without labelled images.

    `places` are the ranks of the labels' own logits, from 0.
    """
    asked = labels >= 0
    n = int(asked.sum())
    if not n or not classes:
        return None
    top1 = float((answers == labels)[asked].mean())
    top5 = float((places[asked] < 5).mean()) if classes >= TOP_FROM else None
    shares = [np.bincount(values[asked], minlength=classes) / n for values in (answers, labels)]
    return Accuracy(n, top1, top5, float(shares[0] @ shares[1]))


def settled_order(
    names: ClassNames, rows: dict[str, int], labels: list[str | None], answers: Ints
) -> tuple[ClassNames, dict[str, int], str]:
    """Names and rows of labels in the order of folders that fits the model's answers, and what is to be said of it.

    torchvision's order stands unless timm's explains clearly more answers.
    """
    assert names.natural is not None
    timms = replace(names, names=names.natural, wnids=None, natural=None)
    timms_rows = label_rows(list(rows), timms)
    readable = answers >= 0
    right, right_timm = (int((image_classes(labels, of) == answers)[readable].sum()) for of in (rows, timms_rows))
    fits = f"{right:,} answers fit torchvision's order of folders, {right_timm:,} timm's"
    margin = DEVIATIONS * sqrt(right + right_timm)
    if right_timm - right > margin:
        return timms, timms_rows, f"{fits}: timm's is taken"
    kept = replace(names, natural=None)
    if right - right_timm > margin:
        return kept, rows, f"{fits}: torchvision's is taken"
    return kept, rows, f"{fits}: that tells nothing, torchvision's is taken; give --class-names to be sure"
