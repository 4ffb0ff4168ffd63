"""Heatmaps: what neurons do where, over the images that the model saw.

maps = neuron_heatmaps(index, [("blocks.4.mlp.fc1", 473)], ["coin/003.jpg"])
maps.values[0, 0]                    # float32 [rows, columns]
maps.picture().save("coin.png")      # with headings and a legend; maps.overlay() is the bare picture

Views of stored maps load no torch; views that need a gradient run the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ...schemas.errors import QueryError
from ..drawing.heatmap_sheet import Heatmaps
from ..drawing.terms import view_definition
from ..lookups.class_images import class_images
from ..lookups.key_neurons import Ranking, key_neurons, named, needs_head
from ..model.map_source import MapSource
from ..stored.names import Neuron, NeuronLike, at_least
from ..stored.stored_index import StoredIndex
from .views import OF_A_CLASS, SCALES, VIEWS, ScaleOf, View, compute, image_scales, scale_words


def neuron_heatmaps(
    index: StoredIndex,
    neurons: Sequence[NeuronLike],
    images: Sequence[int | str],
    view: View = "map",
    class_: str | int | None = None,
    scale: ScaleOf = "neuron",
    *,
    weights: str | Path | None = None,
    device: str | None = None,
) -> Heatmaps:
    """A view of every neuron on every image.

    Args:
        neurons: columns of the picture. The view 'logit-gradient' is of no neuron and has one column.
        images: its rows, by number or path.
        view: what is shown; docs/concepts/views.md defines the views.
        class_: the class that the views of OF_A_CLASS ask about; by default the one that the model predicts.
        scale: 'neuron': one colour scale a neuron, the same on every image, to the largest value shown; 'image': each
            image's own, from the smallest to the largest value of its map (docs/concepts/views.md says what it is for
            the other views).
        weights, device: as for open_model, where a model must run.

    Returns:
        values float32 [image, neuron, rows, columns], their colour scales, and the picture.

    Raises:
        QueryError: an unknown name, an unreadable image, or an index without what the view needs: inputs, a head,
            a nonlinearity after the layer.

    Example:
        >>> neuron_heatmaps(index, ["blocks.4.mlp.fc1:473"], [83], view="post", scale="image").picture()
    """
    if view not in VIEWS:
        raise QueryError(f"no view '{view}'", f"One of {', '.join(VIEWS)}.")
    if scale not in SCALES:
        raise QueryError(f"no scale '{scale}'", f"One of {', '.join(SCALES)}.")
    if not images or not (neurons or view == "logit-gradient"):
        raise QueryError("nothing to show", "Name at least one neuron and one image.")
    columns = [Neuron.of(neuron) for neuron in neurons]
    for neuron in columns:
        index.neuron_layer(*neuron)
    rows = _rows(index, images)
    class_id, name = _class(index, class_, rows) if view in OF_A_CLASS else (-1, "")
    ids = [int(i) for i in rows.image_id]
    shown = compute(MapSource(index, weights, device), view, columns, ids, class_id, name)
    titles = [str(neuron) for neuron in columns] if view != "logit-gradient" else [f"logit of {name}"]
    headings = tuple(_heading(*row) for row in rows[["image_id", "path", "label", "answer"]].itertuples(index=False))
    found = Heatmaps(shown.values, index.inputs(ids), shown.scales, shown.title, headings, tuple(titles), shown.notes)
    if scale == "neuron":
        return replace(found, notes=(*shown.notes, view_definition(view), scale_words(view)))
    own, note = image_scales(shown.values, view)
    return replace(found, scales=(), image_scales=own, notes=(*shown.notes, view_definition(view), note))


def class_heatmaps(
    index: StoredIndex,
    class_: str | int,
    k: int = 5,
    images: int = 5,
    view: View = "map",
    scale: ScaleOf = "neuron",
    by: Ranking | None = None,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
) -> Heatmaps:
    """A class's key neurons on its images of which the model is surest.

    Args:
        class_: by name or WordNet id; an int is its row in the head.
        k: how many neurons; images: how many images.
        view, scale, weights, device: as for neuron_heatmaps; views of a class show this one.
        by: what ranks the neurons, as for key_neurons.

    Returns:
        values float32 [image, neuron, rows, columns], their colour scales, and the picture.

    Raises:
        QueryError: as neuron_heatmaps, key_neurons and class_images.

    Example:
        >>> class_heatmaps(index, "coin", k=3, view="post", scale="image").picture()
    """
    at_least(1, k=k, images=images)
    return ranked_heatmaps(
        index, class_, key_neurons(index, class_, k, by), images, view, scale, weights=weights, device=device
    )


def ranked_heatmaps(
    index: StoredIndex,
    class_: str | int,
    ranked: pd.DataFrame,
    images: int,
    view: View = "map",
    scale: ScaleOf = "neuron",
    layer: str | None = None,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
) -> Heatmaps:
    """As class_heatmaps, of rows of key_neurons; `layer`: the one that they were looked for in."""
    rows = class_images(index, class_, images).image_id.tolist()
    shown = neuron_heatmaps(index, named(ranked), rows, view, class_, scale, weights=weights, device=device)
    notes = (chosen_images(index, class_, len(rows)), *shown.notes)
    return replace(shown, title=f"{chosen_neurons(index, class_, ranked, layer)} {shown.title}.", notes=notes)


def chosen_neurons(index: StoredIndex, class_: str | int, ranked: pd.DataFrame, layer: str | None = None) -> str:
    """How neurons of a class were chosen, for a title."""
    every = sum(spec.units for spec in index.ranked_layers if layer in (None, spec.name))
    where, name = f" of {layer}" if layer else "", index.class_name(class_)
    return f"Key neurons of {name}: the first {len(ranked):,} of {every:,}{where} by {ranked.attrs['by']}."


def chosen_images(index: StoredIndex, class_: str | int, shown: int) -> str:
    """How images of a class were chosen, for a note."""
    count = len(class_images(index, class_))
    return f"Images: of {count:,} of {index.class_name(class_)}, the {shown:,} of which the model is surest."


def _rows(index: StoredIndex, images: Sequence[int | str]) -> pd.DataFrame:
    """image_id, path, label, predicted (a class_id) of images, in their order, all of them readable."""
    ids = [index.readable(image) for image in images]
    found = index.look_up(
        "SELECT image_id, path, label, predicted, c.class AS answer FROM images LEFT JOIN classes c "
        "ON c.class_id = predicted WHERE list_contains(?, image_id)",
        [ids],
    )
    return found.set_index("image_id", drop=False).loc[ids]


def _heading(image_id: int, path: str, label: str | None, answer: str | None) -> tuple[str, ...]:
    """What stands beside an image: its folder, the model's answer, its number."""
    first = path.rsplit("/", 1)[-1] if pd.isna(label) else str(label)
    return (first, *([] if pd.isna(answer) else [f"predicted {answer}"]), f"image {image_id}")


def _class(index: StoredIndex, class_: str | int | None, rows: pd.DataFrame) -> tuple[int, str]:
    """The class that a view asks about, by number and name."""
    needs_head(index)
    if class_ is None:
        answers = rows.predicted.dropna().unique()
        if len(answers) != 1:
            raise QueryError("the model predicts several classes for these images", "Name the one that is meant.")
        class_ = int(answers[0])
    class_id = index.class_id(class_)
    return class_id, index.class_name(class_id)
