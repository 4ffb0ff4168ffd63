"""From the arrays of a filled index to its tables. One layer in memory at a time; the database appears whole or not."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import nn

from ..schemas.errors import BadIndex
from ..schemas.integrity import Facts
from ..schemas.load import ClassNames
from ..schemas.records import LayerSpec, RunSpec
from .finish import KEPT, Columns, Finish
from .statistics import class_auroc, class_means, cls_ranks, exemplar_ranks, score_ranks
from .writer import adopt_file, write_file

SIDES = ("left", "top", "right", "bottom")
CROP_COLUMNS = (
    "image_id, path, label, class_id, predicted, p_class, width, height, "
    'CASE WHEN "left" IS NOT NULL '
    'THEN struct_pack("left" := "left", top := top, "right" := "right", bottom := bottom) END AS crop'
)
CLASSES_AT_ONCE = 50  # of class tables, in memory as rows


def build_tables(finish: Finish) -> Facts:
    """Write index.duckdb, and the statistics that it could not be made from again. Raises BadIndex on a full disk."""
    temporary = finish.layout.database.with_name(".index.duckdb.partial")
    for leftover in (temporary, temporary.with_name(temporary.name + ".wal")):
        leftover.unlink(missing_ok=True)
    try:
        with duckdb.connect(str(temporary)) as db:
            kept = _fill_tables(finish, db)
            db.execute("CHECKPOINT")
    except duckdb.Error as error:
        temporary.unlink(missing_ok=True)
        fact = f"the tables cannot be written: {str(error).strip().splitlines()[0]}"
        raise BadIndex(fact, "Make space and repeat the command.") from error
    # the statistics first: with them, and not without, the tables can be made again
    statistics = finish.layout.statistics
    written = {statistics.relative_to(finish.layout.root).as_posix(): write_file(statistics, save_kept(kept))}
    written[finish.layout.database.name] = adopt_file(temporary, finish.layout.database)
    return written


def _fill_tables(finish: Finish, db: duckdb.DuckDBPyConnection) -> dict[str, Columns]:
    """Returns the KEPT columns of every layer."""
    db.execute("SET preserve_insertion_order = true")
    db.execute(files("vitdex.schemas").joinpath("tables.sql").read_text())
    labels = _images_and_classes(finish, db)
    classes = _count(db, "classes")
    kept: dict[str, Columns] = {}
    activations: dict[str, dict[str, NDArray[np.float64]]] = {}
    for layer in finish.spec.layers:
        by_neuron = finish.read(f"{layer.name}/max_by_neuron")
        kept[layer.name] = finish.kept(layer, by_neuron)
        _neurons(finish, db, layer, kept[layer.name])
        _exemplars(finish, db, layer, by_neuron)
        activations[layer.name] = _class_statistics(finish, layer, by_neuron, labels, classes)
    _class_rows(finish, db, _scores(finish), activations, labels, classes)
    return kept


def save_kept(kept: dict[str, Columns]) -> bytes:
    """A safetensors file of the KEPT columns, LAYER/column."""
    return save({f"{layer}/{name}": column for layer, columns in kept.items() for name, column in columns.items()})


def load_kept(content: bytes) -> dict[str, Columns]:
    kept: dict[str, Columns] = {}
    for path, column in load(content).items():
        layer, name = path.rsplit("/", 1)
        kept.setdefault(layer, {})[name] = column
    return kept


def kept_in_tables(database: Path, spec: RunSpec) -> dict[str, Columns]:
    """The KEPT columns from the tables themselves."""
    query = f"SELECT {', '.join(KEPT)} FROM neurons WHERE layer = ? ORDER BY unit"
    with duckdb.connect(str(database), read_only=True) as db:
        return {layer.name: db.execute(query, [layer.name]).fetchnumpy() for layer in spec.layers}


def _count(db: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


def _insert(db: duckdb.DuckDBPyConnection, table: str, columns: dict[str, Any], what: str = "*") -> None:
    frame = pd.DataFrame(columns)
    db.register("rows", frame)
    db.execute(f"INSERT INTO {table} BY NAME SELECT {what} FROM rows")
    db.unregister("rows")


def _images_and_classes(finish: Finish, db: duckdb.DuckDBPyConnection) -> NDArray[np.int64]:
    """Fill layers, classes, images, failures. Returns each image's class, -1 for none or an unreadable image."""
    spec, records = finish.spec, finish.images
    rows, columns = spec.grid
    db.executemany(
        "INSERT INTO layers VALUES (?, ?, ?, ?, ?, ?)",
        [(a.name, a.block, a.kind, a.units, rows, columns) for a in spec.layers],
    )
    names = finish.names
    if names:
        offset = _logit_offset(finish)
        db.executemany(
            "INSERT INTO classes VALUES (?, ?, ?, ?)",
            [
                (i, names.wnids[i] if names.wnids else None, n, None if offset is None else float(offset[i]))
                for i, n in enumerate(names.names)
            ],
        )
    class_of = match_labels({r["label"] for r in records}, names)
    labels = np.array([class_of.get(r["label"], -1) for r in records], np.int64)
    predicted, p_class = _predictions(finish, labels)
    _insert(
        db,
        "images",
        {
            "image_id": range(len(records)),
            "path": [r["path"] for r in records],
            "label": pd.array([r["label"] for r in records], "object"),
            "class_id": pd.array([c if c >= 0 else None for c in labels.tolist()], "Int64"),
            "predicted": pd.array(predicted, "Int64"),
            "p_class": pd.array(p_class, "Float64"),
            "width": pd.array([r.get("width") for r in records], "Int64"),
            "height": pd.array([r.get("height") for r in records], "Int64"),
            **{
                side: pd.array([r["crop"][i] if "crop" in r else None for r in records], "Float64")
                for i, side in enumerate(SIDES)
            },
        },
        CROP_COLUMNS,
    )
    failed = [(r["path"], r["reason"]) for r in records if "reason" in r]
    if failed:
        db.executemany("INSERT INTO failures VALUES (?, ?)", failed)
    return np.where(finish.valid, labels, -1)


def match_labels(labels: set[str | None], names: ClassNames | None) -> dict[str | None, int]:
    """class_id of each folder label: by WordNet id, else by name (case, '_' and ' ' alike)."""
    if names is None:
        return {}
    known = {_plain(n): i for i, n in reversed(list(enumerate(names.names)))}
    known |= {_plain(w): i for i, w in enumerate(names.wnids or ())}
    return {label: known[_plain(label)] for label in labels if label is not None and _plain(label) in known}


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ")


def _predictions(finish: Finish, labels: NDArray[np.int64]) -> tuple[list[int | None], list[float | None]]:
    if not finish.spec.classes:
        return [None] * len(labels), [None] * len(labels)
    logits = torch.from_numpy(finish.read("logits")).double()
    share = logits.softmax(1).numpy()
    best = logits.argmax(1).tolist()
    readable = finish.valid.tolist()
    p = [float(share[i, c]) if c >= 0 and readable[i] else None for i, c in enumerate(labels.tolist())]
    return [b if ok else None for b, ok in zip(best, readable, strict=True)], p


def _logit_offset(finish: Finish) -> NDArray[np.float32] | None:
    """What a class's logit holds whatever the image: E . beta of the final norm, and the head's bias."""
    head, norm = finish.head, finish.anatomy.readout.norm
    if head.weight is None or norm is None:
        return None
    offset = head.weight @ norm.bias.expand(finish.anatomy.features)
    return (offset + head.bias if head.bias is not None else offset).numpy()


def _neurons(finish: Finish, db: duckdb.DuckDBPyConnection, layer: LayerSpec, kept: Columns) -> None:
    norm = None
    if layer.kind == "hidden":
        norm = finish.hidden[layer.name].value_vectors.norm(dim=1).numpy()
    means = {
        column: finish.read(f"{layer.name}/{leaf}")[finish.valid].mean(0, dtype=np.float64).astype(np.float32)
        for column, leaf in (("pre_mean", "mean"), ("post_mean", "post_mean"))
    }
    _insert(
        db,
        "neurons",
        {
            "layer": [layer.name] * layer.units,
            "unit": np.arange(layer.units),
            **means,
            **kept,
            "value_norm": norm,
        },
    )


def _exemplars(finish: Finish, db: duckdb.DuckDBPyConnection, layer: LayerSpec, by_neuron: NDArray[np.float32]) -> None:
    sides = {(side, "patch"): ids for side, ids in exemplar_ranks(by_neuron, finish.valid).items()}
    if finish.spec.cls:
        cls = np.ascontiguousarray(finish.read(f"{layer.name}/cls").T)
        sides["top", "cls"] = cls_ranks(cls, finish.valid)
    patches = finish.read(f"{layer.name}/argmax")
    units = np.arange(layer.units)[:, None]
    for (side, token), ids in sides.items():
        pre = (cls if token == "cls" else by_neuron)[units, ids]
        patch = pd.array(patches[ids, units].ravel().astype("uint16")) if token == "patch" else None
        _insert(
            db,
            "exemplars",
            {
                "layer": layer.name,
                "unit": np.repeat(units, ids.shape[1]),
                "side": side,
                "token": token,
                "rank": np.tile(np.arange(1, ids.shape[1] + 1), layer.units),
                "image_id": ids.ravel(),
                "patch": patch,
                "pre": pre.ravel(),
                "post": finish.act(layer, np.ascontiguousarray(pre)).ravel(),
            },
        )


def _class_statistics(
    finish: Finish, layer: LayerSpec, by_neuron: NDArray[np.float32], labels: NDArray[np.int64], classes: int
) -> dict[str, NDArray[np.float64]]:
    """Columns of class_activations for one layer: [class, neuron]."""
    has = labels >= 0
    if not has.any():
        return {}
    ids = labels[has]
    mean_of = {
        "mean_max": by_neuron.T,
        "mean": finish.read(f"{layer.name}/mean"),
        "post_mean": finish.read(f"{layer.name}/post_mean"),
    }
    if finish.spec.cls:
        mean_of["cls_post_mean"] = finish.act(layer, finish.read(f"{layer.name}/cls"))
    out = {column: class_means(values[has], ids, classes) for column, values in mean_of.items()}
    if f"{layer.name}/read" in finish.arrays and finish.head.weight is not None:
        mlp = finish.hidden[layer.name]
        folded = finish.anatomy.fold(mlp, mlp.value_vectors)
        scores = (finish.head.weight.double() @ folded.double().T).numpy()
        out["contribution"] = scores * class_means(finish.read(f"{layer.name}/read")[has], ids, classes)
    out["auroc"] = class_auroc(by_neuron[:, has], ids, classes)
    return out


def _scores(finish: Finish) -> dict[str, NDArray[np.float32]]:
    """score, cosine, probability, folded of every hidden neuron: [neuron of all layers, class]."""
    E = finish.head.weight
    hidden = [a.name for a in finish.spec.layers if a.kind == "hidden"]
    if E is None or not hidden or finish.hidden[hidden[0]].fc2.out_features != E.shape[1]:
        return {}
    vectors = torch.cat([finish.hidden[name].value_vectors for name in hidden])
    score = vectors @ E.T
    out = {
        "score": score,
        "cosine": nn.functional.normalize(vectors, dim=1) @ nn.functional.normalize(E, dim=1).T,
        "probability": score.softmax(1),
    }
    if finish.anatomy.readout.defined:
        folded = torch.cat([finish.anatomy.fold(finish.hidden[n], finish.hidden[n].value_vectors) for n in hidden])
        out["folded"] = folded @ E.T
    return {name: value.numpy() for name, value in out.items()}


def _class_rows(
    finish: Finish,
    db: duckdb.DuckDBPyConnection,
    scores: dict[str, NDArray[np.float32]],
    activations: dict[str, dict[str, NDArray[np.float64]]],
    labels: NDArray[np.int64],
    classes: int,
) -> None:
    """class_scores and class_activations, sorted by class, then block and unit."""
    every = list(finish.spec.layers)
    hidden = [a for a in every if a.kind == "hidden"]
    if scores:
        rank_in_unit = np.concatenate(
            [score_ranks(np.ascontiguousarray(block.T)).T for block in np.split(scores["score"], _splits(hidden))]
        )
        for first in range(0, classes, CLASSES_AT_ONCE):
            here = slice(first, min(first + CLASSES_AT_ONCE, classes))
            columns: dict[str, NDArray[Any]] = {name: value[:, here] for name, value in scores.items()}
            columns["rank_in_class"] = score_ranks(columns["score"])
            columns["rank_in_layer"] = np.concatenate(
                [score_ranks(s) for s in np.split(columns["score"], _splits(hidden))]
            )
            columns["rank_in_unit"] = rank_in_unit[:, here]
            _insert(db, "class_scores", _rows(hidden, here, {k: v.T for k, v in columns.items()}))
    n = np.bincount(labels[labels >= 0], minlength=classes)
    if any(activations.values()):
        wanted = [
            c
            for c in ("mean_max", "mean", "post_mean", "cls_post_mean", "contribution", "auroc")
            if any(c in a for a in activations.values())
        ]
        for first in range(0, classes, CLASSES_AT_ONCE):
            here = slice(first, min(first + CLASSES_AT_ONCE, classes))
            stacked = {
                c: np.concatenate(
                    [activations[a.name].get(c, np.full((classes, a.units), np.nan))[here] for a in every], axis=1
                ).astype(np.float32)
                for c in wanted
            }
            width = sum(a.units for a in every)
            stacked["n"] = np.repeat(n[here, None], width, axis=1)
            _insert(db, "class_activations", _rows(every, here, stacked))


def _splits(layers: list[LayerSpec]) -> list[int]:
    return list(np.cumsum([a.units for a in layers])[:-1])


def _rows(layers: list[LayerSpec], classes: slice, columns: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Matrices [class, neuron of all layers] as rows with their keys."""
    count = classes.stop - classes.start
    units = np.concatenate([np.arange(a.units) for a in layers])
    codes = np.repeat(np.arange(len(layers)), [a.units for a in layers])
    return {
        "layer": pd.Categorical.from_codes(np.tile(codes, count), pd.Index([a.name for a in layers])),
        "unit": np.tile(units, count),
        "class_id": np.repeat(np.arange(classes.start, classes.stop), len(units)),
        **{name: np.ascontiguousarray(value).ravel() for name, value in columns.items()},
    }
