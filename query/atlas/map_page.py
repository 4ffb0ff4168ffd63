"""All neurons in two dimensions, as plain data: the two directions along which they differ most.

Two spaces. 'vectors': value vectors of length 1, so that neurons which write the same direction into the stream lie
together whatever their strength. 'scores': what those say of the classes, centred over the classes, so that neurons lie
together which speak for and against the same classes. In both, principal components: axes are directions of the space,
in its own units, and the share of the variance that they show is said. The same index gives the same map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .atlas import Atlas
from .plain import Page, packed, plain

Floats = NDArray[np.float64]
STEPS = 2**16 - 1  # of a coordinate
NOTHING = 2**16 - 1


def map_page(atlas: Atlas) -> Page:
    """Every neuron with a value vector, as a point.

    Returns:
        layers: [place, units] in the order of the points; spaces: for each x and y (uint16 in base64; value = low +
        code / 65535 * (high - low)), low, high and share of the variance for both axes; colours: says (uint16, 65535
        for none), auroc and effect (float32, the largest of all classes), dead (uint8).
    """
    near = atlas.nearness
    if not near.layers:
        return {"layers": [], "spaces": {}, "colours": {}}
    directions = near.directions
    spaces = {"vectors": _space(directions, np.eye(directions.shape[1], dtype=np.float32))}
    if atlas.index.spec.classes > 2:
        head = atlas.index.reader.whole("head")
        spaces["scores"] = _space(directions, head - head.mean(0))
    return {
        "layers": [[place, layer.units] for place, layer in near.layers],
        "spaces": spaces,
        "colours": _colours(atlas, [place for place, _ in near.layers]),
    }


def plane(directions: NDArray[np.float32], seen: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """The two principal components of what is `seen` of directions [row, feature]: [row, 2], shares of variance [2].

    seen: what looks at them, [axis, feature]: the point of a row is seen @ row. The covariance is made of the
    directions' own, so that 36,864 neurons and 1,000 classes need no matrix of both.
    """
    centred = directions - directions.mean(0)
    covariance = seen.astype(np.float64) @ (centred.T @ centred).astype(np.float64) @ seen.T / len(centred)
    variances, axes = np.linalg.eigh(covariance)
    first = axes[:, :-3:-1]
    first *= np.sign(first[np.abs(first).argmax(0), [0, 1]])  # eigh leaves the sign open
    points: Floats = (centred @ (seen.T @ first)).astype(np.float64)
    return points, variances[:-3:-1] / max(float(variances.sum()), 1e-30)


def _space(directions: NDArray[np.float32], seen: NDArray[np.float32]) -> Page:
    points, shares = plane(directions, seen)
    low, high = points.min(0), points.max(0)
    codes = np.rint((points - low) / np.maximum(high - low, 1e-30) * STEPS).astype(np.uint16)
    return {
        "x": packed(codes[:, 0]),
        "y": packed(codes[:, 1]),
        "low": [plain(np.float32(v)) for v in low],
        "high": [plain(np.float32(v)) for v in high],
        "share": [plain(np.float32(v)) for v in shares],
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
