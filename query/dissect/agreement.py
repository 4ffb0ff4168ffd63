"""What a block's keys and values say of a class, and whether they say the same (Vilas et al. 2023, arXiv 2310.18969).

From stored arrays alone; what needs the model is in composition.py.
"""

from __future__ import annotations

from math import comb, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.progress import Progress, tracked
from ...schemas.run_spec import TOKEN_TOP, LayerSpec
from ..lookups.class_images import labelled_images
from ..lookups.key_neurons import needs_head, needs_neurons
from ..stored.stored_index import StoredIndex


def class_value_agreement(index: StoredIndex) -> pd.DataFrame:
    """How near the value vectors of each block come to the head's rows (Vilas et al. 2023).

    Returns:
        Columns layer, block, agreement (the mean over the classes of the largest cosine between E's row and a value
        vector), random (the median of the largest cosine between a row and as many random vectors).

    Raises:
        QueryError: no head, or no neurons of MLPs.

    Example:
        >>> class_value_agreement(index)
    """
    needs_head(index)
    needs_neurons(index)
    found = index.sql(
        "WITH best AS (SELECT layer, class_id, max(cosine) AS cosine FROM class_scores GROUP BY layer, class_id) "
        "SELECT layer, block, avg(cosine) AS agreement FROM best JOIN layers USING (layer) "
        "GROUP BY layer, block ORDER BY block"
    )
    units, width = {s.name: s.units for s in index.hidden_layers}, index.reader.specs["head"].shape[1]
    found = found[found.layer.isin(units)].reset_index(drop=True)  # not those of attention
    return found.assign(random=[largest_random_cosine(units[layer], width) for layer in found.layer])


def largest_random_cosine(vectors: int, width: int) -> float:
    """The median of the largest cosine between a vector and so many random ones: 0.127 for 3,072 of width 768.

    A cosine of random vectors is nearly normal, with variance 1 / width.
    """
    return min(NormalDist().inv_cdf(float(0.5 ** (1 / vectors))) / sqrt(width), 1.0)


def key_value_agreement(index: StoredIndex, *, progress: Progress | None = None) -> pd.DataFrame:
    """How often a token's five largest neurons hold one of the five whose value vectors say its image's class loudest.

    Args:
        progress: told layers done, and all layers.

    Returns:
        Columns layer, block, tokens ('cls', 'patches' or 'all'; registers only in 'all'), n, agreement (a share),
        chance (that two sets of five drawn from the layer's units meet).

    Raises:
        QueryError: no head, no neurons of MLPs, or no image with a class.

    Example:
        >>> key_value_agreement(index).query("tokens == 'cls'")
    """
    needs_head(index)
    needs_neurons(index)
    images = labelled_images(index)
    ids, classes = images.image_id.to_numpy(), images.class_id.to_numpy()
    rows = []
    for layer in tracked(index.hidden_layers, progress):
        loudest = loudest_units(index, layer)
        agree = np.zeros(index.spec.tokens, np.int64)
        for first, top in index.reader.parts(f"{layer.name}/token_top"):
            here = (ids >= first) & (ids < first + len(top))
            # [image, token, 5, 1] against [image, 1, 1, 5]
            met = (top[ids[here] - first][..., None] == loudest[classes[here]][:, None, None]).any((2, 3))
            agree += met.sum(0)
        chance = 1 - comb(layer.units - TOKEN_TOP, TOKEN_TOP) / comb(layer.units, TOKEN_TOP)
        rows += [row | {"chance": chance} for row in by_tokens(index, layer, agree / len(ids), len(ids), "agreement")]
    return pd.DataFrame(rows)


def loudest_units(index: StoredIndex, layer: LayerSpec) -> NDArray[np.int64]:
    """K_c: the five units of a layer with the largest raw score for each class: [class, 5]."""
    found = index.sql(
        "SELECT unit FROM class_scores WHERE layer = ? AND rank_in_layer <= ? ORDER BY class_id, rank_in_layer",
        [layer.name, TOKEN_TOP],
    )
    return found.unit.to_numpy(np.int64).reshape(index.spec.classes, TOKEN_TOP)


def by_tokens(
    index: StoredIndex, layer: LayerSpec, share: NDArray[np.float64], images: int, name: str
) -> list[dict[str, Any]]:
    """Rows of a mean over images [token]: for the CLS token, for the patches, for all tokens."""
    prefix = index.spec.prefix
    kinds = {"cls": share[: int(index.spec.cls)], "patches": share[prefix:], "all": share}
    return [
        {"layer": layer.name, "block": layer.block, "tokens": kind, "n": images * len(of), name: float(of.mean())}
        for kind, of in kinds.items()
        if len(of)
    ]
