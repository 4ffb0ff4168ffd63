"""How a class's logit builds up on its way through the blocks: what attention and MLP add to it, term by term."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.progress import Progress
from ..lookups.class_images import drawn_images
from ..lookups.key_neurons import needs_head
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex

Shares = NDArray[np.float64]


def logit_terms(
    index: StoredIndex,
    class_: str | int,
    image: str | int | None = None,
    k: int = 100,
    seed: int = 0,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """How the logit of a class builds up, one row a term, in the model's order. Runs the model.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        image: one image, by number or path; None for the mean over the class's images.
        k: of a class with more images, as many are drawn; and as many images of other classes, to compare with.
        seed: draws them.
        weights, device: see open_model.
        progress: told batches of images done, and all batches.

    Returns:
        Columns block (none for the first term and the last two), part ('embedding': all that stands in the stream
        before block 0; of each block 'attention units', 'attention bias', 'MLP neurons', 'MLP bias'; 'final norm's
        bias', 'head's bias'), before, value, after: the term in logits, and the sum before it and with it. The last
        `after` is the head's logit. Without `image` these are means over n images, with the standard deviations std of
        value and after_std of after; others, others_std, others_after, others_after_std are the same, of the same
        class's logit, on others_n images of other classes (NaN where there are none).

    Raises:
        QueryError: no head, inputs or images of the class; a model whose head, attention or stream cannot be read so.
        ModelError: other weights than those of the index.

    Example:
        >>> logit_terms(index, "coin").groupby("part").value.sum()
    """
    at_least(1, k=k)
    needs_head(index)
    class_id = index.class_id(class_)
    own, others = (
        (np.array([index.readable(image)]), np.empty(0, np.int64))
        if image is not None
        else drawn_images(index, class_id, k, seed)
    )
    from ..model.live_model import open_model
    from ..model.logit_parts import logit_parts

    found = logit_parts(open_model(index, weights, device), class_id, [*own.tolist(), *others.tolist()], progress)
    shares, compared = np.split(found.shares, [len(own)])
    table = pd.DataFrame(
        {
            "block": pd.array([block for block, _ in found.terms], "Int64"),
            "part": [part for _, part in found.terms],
            "before": _sums(shares).mean(0) - shares.mean(0),
            "value": shares.mean(0),
            "after": _sums(shares).mean(0),
        }
    )
    if image is not None:
        return table
    return table.assign(
        std=_deviation(shares),
        after_std=_deviation(_sums(shares)),
        n=len(own),
        others=_mean(compared),
        others_std=_deviation(compared),
        others_after=_mean(_sums(compared)),
        others_after_std=_deviation(_sums(compared)),
        others_n=len(others),
    )


def _sums(shares: Shares) -> Shares:
    """The logit as it stands after each term: [image, term]."""
    return shares.cumsum(1)


def _mean(values: Shares) -> Shares:
    """Over images [image, term]; NaN of none."""
    return values.mean(0) if len(values) else np.full(values.shape[1], np.nan)


def _deviation(values: Shares) -> Shares:
    """The standard deviation over images [image, term]; NaN of fewer than two."""
    return values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
