"""What a block's keys and values say of a class, and whether they say the same (Vilas et al. 2023, arXiv 2310.18969).

From stored arrays alone; what needs the model is in composition.py.
"""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from ..schemas.errors import QueryError
from ..schemas.records import TOKEN_TOP, LayerSpec
from .class_story import needs_head
from .index import Index


def class_value_agreement(index: Index) -> pd.DataFrame:
    """Mean over the classes of the largest cosine between E's row and a value vector of the block.

    Columns: layer, block, agreement. Raises QueryError for a model without a head.
    """
    needs_head(index)
    return index.sql(
        "WITH best AS (SELECT layer, class_id, max(cosine) AS cosine FROM class_scores GROUP BY layer, class_id) "
        "SELECT layer, block, avg(cosine) AS agreement FROM best JOIN layers USING (layer) "
        "GROUP BY layer, block ORDER BY block"
    )


def key_value_agreement(index: Index) -> pd.DataFrame:
    """How often a token's five largest neurons hold one of the five whose value vectors say its image's class loudest.

    Columns: layer, block, tokens ('cls', 'patches' or 'all'; registers only in 'all'), n, agreement (a share),
    chance (that two sets of five drawn from the layer's units meet). Raises QueryError without head or labels.
    """
    ids, classes = labelled(index)
    rows = []
    for layer in (s for s in index.spec.layers if s.kind == "hidden"):
        loudest = loudest_units(index, layer)
        agree = np.zeros(index.spec.tokens, np.int64)
        for some, of in _by_part(index, ids, classes, layer.name):
            token_top = np.asarray(index.arrays[f"{layer.name}/token_top"].get_orthogonal_selection(some))
            # [image, token, 5, 1] against [image, 1, 1, 5]
            met = (token_top[..., None] == loudest[of][:, None, None]).any((2, 3))
            agree += met.sum(0)
        chance = 1 - comb(layer.units - TOKEN_TOP, TOKEN_TOP) / comb(layer.units, TOKEN_TOP)
        rows += [row | {"chance": chance} for row in by_tokens(index, layer, agree / len(ids), len(ids), "agreement")]
    return pd.DataFrame(rows)


def loudest_units(index: Index, layer: LayerSpec) -> NDArray[np.int64]:
    """K_c: the five units of a layer with the largest raw score for each class: [class, 5]."""
    found = index.sql(
        "SELECT unit FROM class_scores WHERE layer = ? AND rank_in_layer <= ? ORDER BY class_id, rank_in_layer",
        [layer.name, TOKEN_TOP],
    )
    return found.unit.to_numpy(np.int64).reshape(index.spec.classes, TOKEN_TOP)


def labelled(index: Index) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Readable images that have a class, and it. Raises QueryError without a head or without such images."""
    needs_head(index)
    found = index.sql(
        "SELECT image_id, class_id FROM images WHERE class_id IS NOT NULL AND crop IS NOT NULL ORDER BY image_id"
    )
    if found.empty:
        raise QueryError("no image of this index has a class", "Name the folders of images by class or WordNet id.")
    return found.image_id.to_numpy(np.int64), found.class_id.to_numpy(np.int64)


def by_tokens(
    index: Index, layer: LayerSpec, share: NDArray[np.float64], images: int, name: str
) -> list[dict[str, Any]]:
    """Rows of a mean over images [token]: for the CLS token, for the patches, for all tokens."""
    prefix = index.spec.prefix
    kinds = {"cls": share[: int(index.spec.cls)], "patches": share[prefix:], "all": share}
    return [
        {"layer": layer.name, "block": layer.block, "tokens": kind, "n": images * len(of), name: float(of.mean())}
        for kind, of in kinds.items()
        if len(of)
    ]


def _by_part(index: Index, ids: NDArray[np.int64], classes: NDArray[np.int64], what: str) -> Any:
    """Images and their classes, part by part."""
    for part in tqdm(index.spec.parts, desc=what, unit="part", disable=None, leave=False):
        inside = (ids >= part.start) & (ids < part.stop)
        if inside.any():
            yield ids[inside], classes[inside]
