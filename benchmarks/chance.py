"""How much of what dissection marks passes where there is nothing to find: at most one answer in 20 may.

python benchmarks/chance.py sample.vitdex                 # any index with a head, maps of all images, and masks

For `focus`, `pairs`, `sets`, `composed` the head means nothing: its coordinates are shuffled in all rows alike, or
its rows are drawn anew at their lengths. `vitdex head` makes a whole index with it, contributions and all. For
`concepts` the images have the masks of others.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from record import Figure, record
from safetensors.numpy import save_file
from vitdex.indexer import index_with_head
from vitdex.query import class_focus, composed_classes, neuron_concepts, neuron_pairs, neuron_sets, open_masks
from vitdex.query.dissect.masks import Bools, Masks
from vitdex.query.index import Index

ASKED = 0.05
Marked = Iterator[tuple[str, NDArray[np.bool_]]]  # what was asked, and which answers are marked


def drawn_head(head: NDArray[np.float32], kind: str, draw: np.random.Generator) -> NDArray[np.float32]:
    """A head that means nothing: 'shuffled' coordinates, in all rows alike, or 'drawn' rows of the same lengths."""
    if kind == "shuffled":
        shuffled: NDArray[np.float32] = np.ascontiguousarray(head[:, draw.permutation(head.shape[1])])
        return shuffled
    rows = draw.normal(size=head.shape)
    lengths = np.linalg.norm(head, axis=1) / np.linalg.norm(rows, axis=1)
    drawn: NDArray[np.float32] = (rows * lengths[:, None]).astype(np.float32)
    return drawn


def of_heads(index: Index, kind: str, seed: int, folder: Path) -> Marked:
    """What passes with one head that means nothing."""
    head = drawn_head(index.reader.whole("head"), kind, np.random.default_rng(seed))
    file, out = folder / f"{kind}-{seed}.safetensors", folder / f"{kind}-{seed}.vitdex"
    save_file({"weight": head}, file)
    names = folder / "names.txt"
    names.write_text("\n".join(index.classes.name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such a head is near chance
        index_with_head(index.layout.root, file, out, class_names=names)
    with Index(out) as other:
        for by in ("contribution", "score"):
            yield f"focus by {by}", class_focus(other, open_masks(other), by, seed=seed).passes.to_numpy(bool)
        pairs = [neuron_pairs(other, c, k=20, seed=seed).passes for c in range(other.spec.classes)]
        yield "pairs, a class's first", np.array([one.iloc[0] for one in pairs])
        yield "pairs, all 20", np.concatenate(pairs)
        sets = [neuron_sets(other, c, seed=seed) for c in range(other.spec.classes)]
        yield "sets, the first of four", np.array([one[one.set == 1].passes.iloc[-1] for one in sets])
        yield "sets, every step", np.concatenate([one.passes for one in sets])
        yield "composed", composed_classes(other, seed=seed).passes.to_numpy(bool)


class MasksOfOthers(Masks):
    """Every image has the concepts of another one."""

    order: dict[int, int]

    def of_concepts(self, image_id: int) -> dict[int, Bools]:
        return super().of_concepts(self.order[image_id])


def of_masks(index: Index, seed: int) -> Marked:
    """What passes with masks of other images: neurons of the last layer."""
    own = open_masks(index)
    masks = MasksOfOthers(own.index, own.folder, own.names)
    ids = own.images.image_id.to_numpy()
    object.__setattr__(
        masks, "order", dict(zip(ids, np.random.default_rng(seed + 10_000).permutation(ids), strict=True))
    )
    found = neuron_concepts(index, masks, layer=index.spec.layers[-1].name, seed=seed)
    yield "concepts, last layer", found.passes.to_numpy(bool)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--seeds", default=10, show_default=True)
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(path: Path, seeds: int, out: Path | None) -> None:
    """The share of marked answers that pass by chance."""
    asked, passed = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as place, Index(path) as index:
        for seed in range(seeds):
            heads = (one for kind in ("shuffled", "drawn") for one in of_heads(index, kind, seed, Path(place)))
            for what, marked in (*heads, *of_masks(index, seed)):
                asked[what] += len(marked)
                passed[what] += int(marked.sum())
            for what, count in asked.items():
                print(f"{seed + 1} seeds: {what}: {passed[what]} of {count} ({passed[what] / count:.1%})", flush=True)
    record(out, "chance", [Figure(f"{what} passes by chance", passed[what] / asked[what], "", ASKED) for what in asked])


if __name__ == "__main__":
    main()
