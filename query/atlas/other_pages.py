"""A layer's page, the start, what the search knows, and where all of it comes from, as plain data."""

from __future__ import annotations

from typing import Any

import numpy as np

from .atlas import Atlas
from .plain import Page, listed, plain

PATHS = 200_000  # images that the search knows by path: of more the list is too long for a browser to wait for
COLUMNS = ("says", "score", "auroc", "auroc_class", "effect", "effect_class", "positive_share", "value_norm", "dead")


def start_page(atlas: Atlas) -> Page:
    """What every page needs: the names of layers and classes, sizes, and what the index holds."""
    index = atlas.index
    spec = index.spec
    return {
        "name": index.name,
        "model": spec.model,
        "layers": [{"name": s.name, "block": s.block, "kind": s.kind, "units": s.units} for s in spec.layers],
        "classes": listed(index.classes.name),
        "wnids": listed(index.classes.wnid) if index.classes.wnid.notna().any() else None,
        "images": spec.images,
        "grid": list(spec.grid),
        "input": list(spec.preprocessing["input_size"][1:]),
        "pictures": spec.inputs,
        "activation": spec.activation,
        "rankings": atlas.rankings,
    }


def search_page(atlas: Atlas) -> Page:
    """What the search looks through beside the start's names: paths of images by number, descriptions of neurons."""
    index = atlas.index
    places = {layer.name: place for place, layer in enumerate(index.spec.layers)}
    said = index.look_up("SELECT layer, unit, source, description FROM descriptions ORDER BY layer, unit, source", [])
    rows = zip(said.layer.map(places), said.unit, said.source, said.description, strict=True)
    return {
        "paths": atlas.images.path if index.spec.images <= PATHS else None,
        "descriptions": [[int(p), int(u), plain(s), plain(d)] for p, u, s, d in rows if p == p],
    }


def layer_page(atlas: Atlas, place: int) -> Page:
    """A layer's neurons, column by column, in the order of units."""
    name = atlas.layer(place)
    spec = atlas.index.neuron_layer(name, 0)
    columns = {c: atlas.neurons.of_layer(place, c) for c in COLUMNS if c in atlas.neurons.columns}
    return {
        "layer": place,
        "name": name,
        "block": spec.block,
        "kind": spec.kind,
        "neurons": {c: listed(values) for c, values in columns.items() if not np.isnan(values).all()},
    }


def about_page(atlas: Atlas) -> Page:
    """The manifest without its list of files, and what its extension was made with."""
    index = atlas.index
    manifest: dict[str, Any] = {key: value for key, value in index.manifest.items() if key != "files"}
    failed = index.look_up("SELECT path, reason FROM failures ORDER BY path LIMIT 100", [])
    return {
        "manifest": manifest,
        "files": len(index.manifest["files"]),
        "bytes": int(np.sum([size for size, _ in index.manifest["files"].values()])),
        "effects": None if index.effects is None else index.effects.spec.to_json(),
        "failures": [[plain(path), plain(reason)] for path, reason in failed.itertuples(index=False)],
    }
