"""Points arranged in two dimensions so that those lie together which are near in their space: t-SNE, made once.

Two principal components show a few percent of how neurons differ: hardly any two that are near in all directions lie
near there. t-SNE (van der Maaten and Hinton 2008, by openTSNE) gives up distances to keep neighbours. How far it keeps
them is counted and said. It takes minutes for ViT-B/16, so what was made is kept in the user's cache.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ...schemas.progress import Progress, silent
from ...schemas.storage.plain_files import replacing
from ...schemas.user_folders import user_folder
from .spaces import Floats, plane

Points = NDArray[np.float32]
NEIGHBOURS = 90  # that a point is drawn to, exact ones: three times the perplexity, as openTSNE takes it
FEWEST = 4 * NEIGHBOURS  # points that are worth arranging
STEPS = 750  # 250 of them exaggerate
TOLD = 25
MANY = 10_000  # points from which interpolation (Linderman and others 2019) is faster than a tree
BLOCK = 1024
NEAR, WITHIN, ASKED = 10, 100, 1000
VERSION = 1  # of what is kept: a change of how points are arranged makes them anew


@dataclass(frozen=True)
class Arranged:
    """Points float32 [neuron, 2]; of a neuron's ten nearest, the share among its hundred nearest points; those ten."""

    points: Points
    kept: float
    nearest: NDArray[np.int64]  # [neuron, 10], nearest first


def why_not(points: int) -> str | None:
    """Why so many points cannot be arranged: 'too few' or 'not installed' (openTSNE); None where they can."""
    if points < FEWEST:
        return "too few"
    return None if find_spec("openTSNE") else "not installed"


def recalled(key: str, points: int) -> Arranged | None:
    """What was arranged under a key before; None where the cache holds nothing of so many points."""
    file = _cache_file(key)
    return None if file is None else read(file, points)


def arranged(rows: Floats, key: str, progress: Progress | None = None) -> Arranged:
    """Points of length 1 [neuron, direction] arranged in two dimensions, and kept in the cache under a key."""
    made, file = _arrange(rows, progress or silent), _cache_file(key)
    if file is not None:
        with suppress(OSError):  # a cache that cannot be written: it is made again another time
            write(file, made)
    return made


def write(file: Path, made: Arranged) -> None:
    """Keep an arrangement in a file, which is whole or not there. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part, part.open("wb") as content:
        np.savez(content, points=made.points, kept=np.float64(made.kept), nearest=made.nearest)


def read(file: Path, points: int) -> Arranged | None:
    """What was kept in a file; None where that holds no arrangement of so many points."""
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile):
        with np.load(file, allow_pickle=False) as kept:
            found = Arranged(kept["points"].astype(np.float32), float(kept["kept"]), kept["nearest"].astype(np.int64))
        placed = found.points.shape == (points, 2) and np.isfinite(found.points).all()
        known = found.nearest.shape == (points, NEAR) and 0 <= found.nearest.min() <= found.nearest.max() < points
        return found if placed and known else None
    return None


def neighbours(rows: Floats, k: int, progress: Progress = silent) -> tuple[NDArray[np.int64], Floats]:
    """The k nearest others of every point by cosine, nearest first: which, and the cosines; [neuron, k] both."""
    found, cosines = np.empty((len(rows), k), np.int64), np.empty((len(rows), k), np.float32)
    for first in range(0, len(rows), BLOCK):
        block = slice(first, first + BLOCK)
        near = rows[block] @ rows.T
        near[np.arange(len(near)), np.arange(first, first + len(near))] = -np.inf
        best = np.argpartition(near, len(rows) - k, axis=1)[:, -k:]
        values = np.take_along_axis(near, best, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        found[block], cosines[block] = np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)
        progress(min(first + BLOCK, len(rows)), len(rows))
    return found, cosines


def share_kept(rows: Floats, points: Points) -> float:
    """Of the ten nearest by cosine of a thousand neurons, the share that is among their hundred nearest points."""
    asked = np.unique(np.linspace(0, len(rows) - 1, ASKED).astype(int))
    near = rows[asked] @ rows.T
    near[np.arange(len(asked)), asked] = -np.inf
    nearest = np.argpartition(near, len(rows) - NEAR, axis=1)[:, -NEAR:]
    shares = []
    for row, own in zip(asked, nearest, strict=True):
        far = ((points - points[row]) ** 2).sum(1)
        far[row] = np.inf
        shares.append(np.isin(own, np.argpartition(far, WITHIN)[:WITHIN]).mean())
    return float(np.mean(shares))


def _arrange(rows: Floats, progress: Progress) -> Arranged:
    from openTSNE import TSNE, affinity, nearest_neighbors

    whole = 2 * STEPS  # the search for neighbours is told as the first half
    near, cosines = neighbours(rows, NEIGHBOURS, lambda done, total: progress(STEPS * done // total, whole))
    apart = np.sqrt(np.maximum(0, 2 - 2 * cosines.astype(np.float64)))  # of points of length 1
    drawn = affinity.PerplexityBasedNN(
        perplexity=NEIGHBOURS / 3, knn_index=nearest_neighbors.PrecomputedNeighbors(near, apart), n_jobs=-1
    )
    first, _ = plane(rows)
    told = iter(range(STEPS + TOLD, whole, TOLD))

    def tell(*_: Any) -> None:
        progress(next(told, whole), whole)

    method = "fft" if len(rows) >= MANY else "bh"
    points: Points = np.asarray(
        TSNE(
            n_jobs=-1, random_state=0, negative_gradient_method=method, callbacks=tell, callbacks_every_iters=TOLD
        ).fit(affinities=drawn, initialization=first / max(float(first[:, 0].std()), 1e-30) * 1e-4),
        np.float32,
    )
    progress(whole, whole)
    return Arranged(points, share_kept(rows, points), near[:, :NEAR])


def _cache_file(key: str) -> Path | None:
    """Where an arrangement is kept; None for a user without a home."""
    with suppress(RuntimeError):
        return user_folder("cache") / f"map-{key}-{VERSION}.npz"
    return None
