"""Images with a class: the one place that picks them. An image that could not be read is nobody's."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex


def class_images(index: StoredIndex, class_: str | int, k: int | None = None) -> pd.DataFrame:
    """A class's k readable images of which the model is surest: largest p_class, ties to the lower id.

    The choice looks at the model's answer alone and never at a neuron, so that neurons can be compared on it.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        k: how many; None for all.

    Returns:
        Columns image_id, path, label, predicted, p_class.

    Raises:
        QueryError: an unknown class, or one without images.

    Example:
        >>> class_images(index, "coin", k=5).path.tolist()
    """
    at_least(1, k=1 if k is None else k)
    class_id = index.class_id(class_)
    found = index.look_up(
        "SELECT image_id, path, label, predicted, p_class FROM images WHERE class_id = ? AND crop IS NOT NULL "
        "ORDER BY p_class DESC NULLS LAST, image_id LIMIT ?",
        [class_id, k],
    )
    if found.empty:
        raise QueryError(
            f"the index has no image of class '{index.class_name(class_id)}'", "Name images, or another class."
        )
    return found


def labelled_images(index: StoredIndex) -> pd.DataFrame:
    """All readable images that have a class.

    Returns:
        Columns image_id, class_id, in the order of images.

    Raises:
        QueryError: no image has a class.

    Example:
        >>> labelled_images(index).class_id.value_counts()
    """
    found = index.sql(
        "SELECT image_id, class_id FROM images WHERE class_id IS NOT NULL AND crop IS NOT NULL ORDER BY image_id"
    )
    if found.empty:
        raise QueryError("no image of this index has a class", "Name the folders of images by class or WordNet id.")
    return found.astype("int64")


def drawn_images(
    index: StoredIndex, class_: str | int, k: int, seed: int, among: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Up to k images of a class, and as many of other classes, drawn: two arrays of numbers, in order.

    among: only of these images; None for all. Raises QueryError: an unknown class, or one without such images.
    """
    class_id = index.class_id(class_)
    random = np.random.default_rng((seed, class_id))
    own = class_images(index, class_id).image_id.to_numpy(np.int64)
    every = labelled_images(index)
    others = every.image_id[every.class_id != class_id].to_numpy(np.int64)
    if among is not None:
        own, others = np.intersect1d(own, among), np.intersect1d(others, among)
    if not len(own):
        raise QueryError(
            f"no image of class '{index.class_name(class_id)}' has a mask", "Give --masks DIR with theirs."
        )
    own = np.sort(random.choice(own, min(k, len(own)), replace=False))
    return own, np.sort(random.choice(others, min(len(own), len(others)), replace=False))
