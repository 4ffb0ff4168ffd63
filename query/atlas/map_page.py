"""All neurons in two dimensions, as plain data: arranged by nearness, and along the two directions that differ most.

What nearness is in each of the two spaces, `spaces.py` says. Axes of principal components are directions of the space,
in its own units; axes of an arrangement mean nothing, and how many neighbours it keeps is counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrangement import FEWEST, NEAR, WITHIN, Points, share_kept
from .atlas import Atlas
from .placing import placing
from .plain import Page, packed, plain
from .spaces import plane, rows_of

STEPS = 2**16 - 1  # of a coordinate
NOTHING = 2**16 - 1


def map_page(atlas: Atlas) -> Page:
    """Every neuron with a value vector, as a point.

    Returns:
        layers: [place, units] in the order of the points; spaces: by name ('vectors', 'scores': arranged;
        'vectors-axes', 'scores-axes': principal components) x and y (uint16 in base64; value = low + code / 65535 *
        (high - low)), low, high, method, share (of the variance, by axis) and kept (of a neuron's `near` nearest, the
        share that is among the `within` nearest points, and by chance; None of few neurons); arranging: 'made', 'under
        way', 'failed', 'not installed' (openTSNE), 'too few' (neurons); colours: says (uint16, 65535 for none), auroc
        and effect (float32, the largest of all classes), dead (uint8).
    """
    near = atlas.nearness
    if not near.layers:
        return {"layers": [], "spaces": {}, "colours": {}, "arranging": "too few"}
    return {
        "layers": [[place, layer.units] for place, layer in near.layers],
        "spaces": {**_arranged(atlas), **atlas.once("axes", lambda: _axes(atlas))},
        "arranging": _arranging(atlas),
        "colours": _colours(atlas, [place for place, _ in near.layers]),
    }


def _arranging(atlas: Atlas) -> str:
    held = placing(atlas)
    if held.why_not or not held.missing:
        return held.why_not or "made"
    return "failed" if held.fault else "under way"


def _arranged(atlas: Atlas) -> Page:
    """What has been arranged by now."""
    held = placing(atlas)
    found: Page = {}
    for space in [space for space in held.spaces if space in held.made]:
        points, kept = held.made[space].points, held.made[space].kept
        found[space] = {**_coded(points), "method": "t-SNE", "share": None, "kept": _kept(kept, len(points))}
    return found


def _axes(atlas: Atlas) -> Page:
    """The two principal components of every space."""
    found: Page = {}
    for space in placing(atlas).spaces:
        rows = rows_of(atlas, space)
        points, shares = plane(rows)
        kept = _kept(share_kept(rows, points), len(points)) if len(points) >= FEWEST else None
        shown = [plain(np.float32(share)) for share in shares]
        found[f"{space}-axes"] = {**_coded(points), "method": "principal components", "share": shown, "kept": kept}
    return found


def _kept(share: float, points: int) -> Page:
    chance = WITHIN / (points - 1)
    return {"near": NEAR, "within": WITHIN, "share": plain(np.float32(share)), "chance": plain(np.float32(chance))}


def _coded(points: Points) -> Page:
    low, high = points.min(0), points.max(0)
    codes = np.rint((points - low) / np.maximum(high - low, 1e-30) * STEPS).astype(np.uint16)
    return {
        "x": packed(codes[:, 0]),
        "y": packed(codes[:, 1]),
        "low": [plain(np.float32(v)) for v in low],
        "high": [plain(np.float32(v)) for v in high],
    }


def _colours(atlas: Atlas, places: list[int]) -> dict[str, str]:
    """What points can be coloured by, where the index has it."""
    held = atlas.neurons

    def column(name: str) -> NDArray[np.floating]:
        return np.concatenate([held.of_layer(place, name) for place in places])

    says = column("says")
    colours = {"says": packed(np.where(np.isnan(says), NOTHING, says).astype(np.uint16))}
    colours |= {name: packed(column(name)) for name in ("auroc", "effect") if name in held.columns}
    return colours | {"dead": packed(column("dead").astype(np.uint8))}
