"""An image's page as plain data."""

from __future__ import annotations

import numpy as np

from ...schemas.errors import STRANGE, DamagedIndex
from ...schemas.run_spec import TOKEN_TOP
from .atlas import Atlas
from .plain import Page, packed
from .thumbnails import whole_picture

ANSWERS = 5
NOTHING = 2**16 - 1  # in `says`: no class


def image_page(atlas: Atlas, image_id: int) -> Page:
    """What an index holds of an image.

    Args:
        image_id: its number.

    Returns:
        id, path, label, class, width, height, readable; answers: the model's first classes as [class_id, probability];
        grid, prefix, tops: [token, top] of the neurons that follow; layers: for each its place, the five largest
        neurons of every token (uint16 [token, top]) and the class that each says loudest (uint16, 65535 for none),
        in base64.

    Raises:
        QueryError: no such image.
    """
    index = atlas.index
    image_id = index.image_id(image_id)
    images, spec = atlas.images, index.spec
    readable = bool(images.readable[image_id])
    ((width, height),) = index.tables.rows("SELECT width, height FROM images WHERE image_id = ?", [image_id])
    return {
        "id": image_id,
        "path": images.path[image_id],
        "label": images.label[image_id],
        "class": int(images.class_id[image_id]),
        "width": width,
        "height": height,
        "readable": readable,
        "answers": _answers(atlas, image_id) if readable else [],
        "grid": list(spec.grid),
        "prefix": spec.prefix,
        "cls": spec.cls,
        "tops": [spec.tokens, TOKEN_TOP],
        "layers": [_largest(atlas, place, image_id) for place in range(len(spec.layers))] if readable else [],
    }


def picture_of(atlas: Atlas, image_id: int) -> bytes:
    """An image as the model saw it, a JPEG. Raises QueryError where there is none."""
    return whole_picture(atlas.index.inputs([atlas.index.readable(image_id)])[0])


def _answers(atlas: Atlas, image_id: int) -> list[list[float]]:
    """The classes of the largest logits, with their probability over all classes."""
    if "logits" not in atlas.index.reader:
        return []
    logits = atlas.index.reader.cell("logits", image_id).astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    return [[int(c), round(float(shares[c]), 5)] for c in np.argsort(-shares, kind="stable")[:ANSWERS]]


def _largest(atlas: Atlas, place: int, image_id: int) -> Page:
    units = atlas.index.reader.cell(f"{atlas.layer(place)}/token_top", image_id)
    if units.max() >= atlas.index.spec.layers[place].units:
        raise DamagedIndex(f"{atlas.layer(place)}/token_top names a neuron that the index does not have", STRANGE)
    says = atlas.neurons.of_layer(place, "says")
    classes = np.where(np.isnan(says), NOTHING, says).astype(np.uint16)
    return {"layer": place, "units": packed(units), "says": packed(classes[units])}
