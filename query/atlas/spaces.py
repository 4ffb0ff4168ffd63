"""The spaces in which neurons lie together: what a point is, how near two are, and their two main directions.

'vectors': value vectors of length 1, so that neurons which write the same direction into the stream lie together
whatever their strength. 'scores': what these say of the classes, centred over the classes and of length 1, so that
neurons lie together which speak for and against the same classes. In both, near is a large cosine.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .atlas import Atlas

Space = Literal["vectors", "scores"]
Floats = NDArray[np.float32]
NEGLIGIBLE = 1e-5  # of the largest singular value: a direction of the head that only rounding gives it


def spaces_of(atlas: Atlas) -> tuple[Space, ...]:
    """The spaces that an index has: none without value vectors, no scores without a head of several classes."""
    if not atlas.nearness.layers:
        return ()
    return ("vectors", "scores") if atlas.index.spec.classes > 2 else ("vectors",)


def rows_of(atlas: Atlas, space: Space) -> Floats:
    """Every neuron with a value vector as a point of length 1 (or 0): float32 [neuron, direction]."""
    directions: Floats = atlas.nearness.directions
    return directions if space == "vectors" else profiles(directions, atlas.index.reader.whole("head"))


def profiles(directions: Floats, head: Floats) -> Floats:
    """What directions [neuron, feature] say of the classes of a head [class, feature], as points of length 1.

    The scores of a neuron lie in as many directions as the centred head has, so those are kept, and not one score a
    class: products of two points are those of their centred scores.
    """
    _, sizes, axes = np.linalg.svd(head - head.mean(0), full_matrices=False)
    held = sizes > NEGLIGIBLE * sizes[0]
    rows: Floats = directions @ (axes[held].T * sizes[held])
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    np.divide(rows, lengths, out=rows, where=lengths > 0)
    return rows


def plane(rows: Floats) -> tuple[Floats, NDArray[np.float64]]:
    """The two principal components of points [neuron, direction]: float32 [neuron, 2], their shares of the variance."""
    centred = rows - rows.mean(0)
    variances, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    first = axes[:, :-3:-1]
    first = first * np.sign(first[np.abs(first).argmax(0), [0, 1]])  # eigh leaves the sign open
    points: Floats = (centred @ first.astype(np.float32)).astype(np.float32)
    return points, variances[:-3:-1] / max(float(variances.sum()), 1e-30)
