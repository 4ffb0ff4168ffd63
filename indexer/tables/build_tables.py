"""From the arrays of a filled index to its tables. One layer in memory at a time; the database appears whole or not."""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ...schemas.database import (
    TABLES_SQL,
    attach_for_writing,
    attach_tables,
    filling,
    lock_in,
    naming_damage,
    open_tables,
)
from ...schemas.facts import Files, ImageFacts
from ...schemas.layout import Layout
from ...schemas.progress import Progress, tracked
from ...schemas.rows import Column, insert
from ...schemas.run_spec import OTHER_EXEMPLARS, LayerSpec, RunSpec, Side, Token
from ...schemas.storage.atomic_files import adopt_file, write_file
from ..statistics.image_ranks import Means, largest, rank_images
from .class_tables import class_columns, class_means, insert_activations, insert_scores
from .filled_index import KEPT, Columns, Finish

SIDES = ("left", "top", "right", "bottom")
CROP_COLUMNS = (
    "image_id, path, label, class_id, predicted, p_class, width, height, "
    'CASE WHEN "left" IS NOT NULL '
    'THEN struct_pack("left" := "left", top := top, "right" := "right", bottom := bottom) END AS crop'
)


def build_tables(finish: Finish, progress: Progress | None = None) -> Files:
    """Write index.duckdb, and the statistics that it could not be made from again. `progress` is told layers.

    Raises BadIndex on a full disk.
    """
    temporary = finish.layout.database.with_name(".index.duckdb.partial")
    with filling(temporary) as db:
        if finish.exemplars_of is not None:
            lock_in(db, finish.exemplars_of[0].database, temporary)
            attach_tables(db, *finish.exemplars_of)
        attach_for_writing(db, temporary, "made")
        db.execute("USE made")
        kept = _fill_tables(finish, db, progress)
    # the statistics first: with them, and not without, the tables can be made again
    statistics = finish.layout.statistics
    written = {finish.layout.key(statistics): write_file(statistics, save_kept(kept, finish))}
    written[finish.layout.database.name] = adopt_file(temporary, finish.layout.database)
    return written


def _fill_tables(finish: Finish, db: duckdb.DuckDBPyConnection, progress: Progress | None = None) -> dict[str, Columns]:
    """Returns the KEPT columns of every layer."""
    db.execute(TABLES_SQL)
    labels = _images_and_classes(finish, db)
    classes = len(finish.settled.names.names) if finish.settled.names else 0
    insert_scores(finish, db)
    if finish.exemplars_of is not None:
        with naming_damage(finish.exemplars_of[0]):
            db.execute("INSERT INTO exemplars SELECT * FROM vitdex_index.main.exemplars")
    kept: dict[str, Columns] = {}
    activations: dict[str, dict[str, NDArray[np.float32]]] = {}
    for layer in tracked(finish.spec.layers, progress):
        by_neuron = finish.reader.whole(f"{layer.name}/max_by_neuron")
        kept[layer.name] = finish.kept(layer, by_neuron)
        means = class_means(finish, layer, labels, classes)
        order = rank_images(by_neuron, finish.valid, labels, classes)
        _neurons(finish, db, layer, kept[layer.name], means)
        if finish.exemplars_of is None:
            _exemplars(finish, db, layer, by_neuron, order.sides)
        if (labels >= 0).any():
            activations[layer.name] = class_columns(finish, layer, means) | {"auroc": order.auroc}
    insert_activations(finish, db, activations, labels, classes)
    return kept


def save_kept(kept: dict[str, Columns], finish: Finish) -> bytes:
    """A safetensors file of the KEPT columns, LAYER/column, and of the constants of the norm and the head."""
    columns = {f"{layer}/{name}": column for layer, columns in kept.items() for name, column in columns.items()}
    return save({**columns, **finish.constants})


def load_kept(content: bytes) -> dict[str, Columns]:
    kept: dict[str, Columns] = {}
    for path, column in load(content).items():
        layer, name = path.rsplit("/", 1)
        kept.setdefault(layer, {})[name] = column
    return kept


def kept_in_tables(layout: Layout, spec: RunSpec) -> dict[str, Columns]:
    """The KEPT columns from the tables themselves."""
    query = f"SELECT {', '.join(KEPT)} FROM neurons WHERE layer = ? ORDER BY unit"
    kept: dict[str, Columns] = {}
    with open_tables(layout, spec) as db:
        for layer in spec.layers:
            columns = db.execute(query, [layer.name]).fetchnumpy()
            kept[layer.name] = {name: np.asarray(column) for name, column in columns.items()}
    return kept


def _images_and_classes(finish: Finish, db: duckdb.DuckDBPyConnection) -> NDArray[np.int64]:
    """Fill layers, classes, images, failures. Returns each image's class, -1 for none or an unreadable image."""
    spec, images = finish.spec, finish.images
    rows, columns = spec.grid
    db.executemany(
        "INSERT INTO layers VALUES (?, ?, ?, ?, ?, ?)",
        [(a.name, a.block, a.kind, a.units, rows, columns) for a in spec.layers],
    )
    names = finish.settled.names
    if names:
        offset = _logit_offset(finish)
        db.executemany(
            "INSERT INTO classes VALUES (?, ?, ?, ?)",
            [
                (i, names.wnids[i] if names.wnids else None, n, None if offset is None else float(offset[i]))
                for i, n in enumerate(names.names)
            ],
        )
    labels = finish.classes
    insert(db, "images", _image_columns(images, labels, *_predictions(finish, labels)), CROP_COLUMNS)
    failed = [(image.path, image.reason) for image in images if not image.readable]
    if failed:
        db.executemany("INSERT INTO failures VALUES (?, ?)", failed)
    return np.where(finish.valid, labels, -1)


def _image_columns(
    images: list[ImageFacts], labels: NDArray[np.int64], predicted: list[int | None], p_class: list[float | None]
) -> dict[str, Column]:
    """Columns of the table images, the crop by its sides."""
    crops = [image.crop or (None,) * len(SIDES) for image in images]
    return {
        "image_id": range(len(images)),
        "path": [image.path for image in images],
        "label": pd.array([image.label for image in images], "object"),
        "class_id": pd.array([c if c >= 0 else None for c in labels.tolist()], "Int64"),
        "predicted": pd.array(predicted, "Int64"),
        "p_class": pd.array(p_class, "Float64"),
        "width": pd.array([image.width for image in images], "Int64"),
        "height": pd.array([image.height for image in images], "Int64"),
        **{side: pd.array([crop[i] for crop in crops], "Float64") for i, side in enumerate(SIDES)},
    }


def _predictions(finish: Finish, labels: NDArray[np.int64]) -> tuple[list[int | None], list[float | None]]:
    if not finish.spec.classes:
        return [None] * len(labels), [None] * len(labels)
    answers, (share, rank) = finish.answers.tolist(), finish.own_logits
    p_class = [p if r >= 0 else None for p, r in zip(share.tolist(), rank.tolist(), strict=True)]
    return [answer if answer >= 0 else None for answer in answers], p_class


def _logit_offset(finish: Finish) -> NDArray[np.float32] | None:
    """What a class's logit holds whatever the image: E . beta of the final norm, and the head's bias."""
    head, bias = finish.head, finish.space.norm_bias
    if head.weight is None or bias is None:
        return None
    offset = head.weight.double() @ bias.double()
    return (offset + head.bias if head.bias is not None else offset).float().numpy()


def _neurons(
    finish: Finish, db: duckdb.DuckDBPyConnection, layer: LayerSpec, kept: Columns, means: dict[str, Means]
) -> None:
    norm = None
    if layer.has_value_vectors:
        norm = finish.space.vectors(layer.name).norm(dim=1).numpy()
    columns = {
        "layer": layer.name,
        "unit": np.arange(layer.units, dtype=np.uint32),
        "pre_mean": means["mean"].mean,
        "post_mean": means["post_mean"].mean,
        **kept,
        "value_norm": norm,
    }
    insert(db, "neurons", columns)


def _exemplars(
    finish: Finish,
    db: duckdb.DuckDBPyConnection,
    layer: LayerSpec,
    by_neuron: NDArray[np.float32],
    sides: dict[Side, NDArray[np.int64]],
) -> None:
    units = np.arange(layer.units)[:, None]
    k = min(OTHER_EXEMPLARS, int(finish.valid.sum()))
    for side, ids in sides.items():
        pre, place = by_neuron[units, ids], "argmax"
        if side == "bottom" and layer.both_signs:  # below 0 such a unit speaks as well
            minima = ((first, -values) for first, values in finish.reader.parts(f"{layer.name}/min"))
            negated, ids = largest(minima, layer.units, k)
            pre, place = -negated, "argmin"
        _insert_exemplars(finish, db, layer, side, "patch", ids, pre, _patches(finish, layer, ids, place))
    if finish.spec.cls:
        pre, ids = largest(finish.reader.parts(f"{layer.name}/cls"), layer.units, k)
        _insert_exemplars(finish, db, layer, "top", "cls", ids, pre, None)


def _patches(finish: Finish, layer: LayerSpec, ids: NDArray[np.int64], place: str) -> NDArray[np.uint16]:
    """The patch of the largest value (argmax; argmin: smallest) of every neuron on its images [neuron, rank]."""
    out = np.zeros(ids.shape, np.uint16)
    for first, patches in finish.reader.parts(f"{layer.name}/{place}"):
        unit, rank = np.nonzero((ids >= first) & (ids < first + len(patches)))
        out[unit, rank] = patches[ids[unit, rank] - first, unit]
    return out


def _insert_exemplars(
    finish: Finish,
    db: duckdb.DuckDBPyConnection,
    layer: LayerSpec,
    side: Side,
    token: Token,
    ids: NDArray[np.int64],
    pre: NDArray[np.float32],
    patch: NDArray[np.uint16] | None,
) -> None:
    units, ranks = ids.shape
    columns = {
        "layer": layer.name,
        "unit": np.repeat(np.arange(units, dtype=np.uint32), ranks),
        "side": side,
        "token": token,
        "rank": np.tile(np.arange(1, ranks + 1, dtype=np.uint32), units),
        "image_id": ids.ravel().astype(np.uint32),
        "patch": None if patch is None else patch.ravel(),
        "pre": pre.ravel(),
        "post": finish.act(layer, np.ascontiguousarray(pre)).ravel(),
    }
    insert(db, "exemplars", columns)
