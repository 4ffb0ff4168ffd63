"""What a cheaper precision costs: agreement of the top exemplars and error of the maps against float32.

python benchmarks/precision.py                                             # the packaged sample
python benchmarks/precision.py --model NAME --weights FILE --images DIR    # any other

The same images are indexed in each precision with float16 maps. The error of a map is that of its worst patch, as a
share of the float32 map's range.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from record import Figure, record
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Request, sample_request
from vitdex.query.index import Index
from vitdex.schemas.run_spec import Precision

K = 15
SHARES = (0.5, 0.99)


def top_images(index: Index, layer: str) -> NDArray[np.int64]:
    """The top K images of every neuron: [neuron, K]."""
    rows = index.sql(
        "SELECT image_id FROM exemplars WHERE layer = ? AND side = 'top' AND token = 'patch' AND rank <= ? "
        "ORDER BY unit, rank",
        [layer, K],
    )
    return rows.image_id.to_numpy(np.int64).reshape(-1, K)


def compare(index: Index, exact: Index) -> dict[str, float]:
    """Means over the layers of an index against the one in float32."""
    of_layers: dict[str, list[float]] = {name: [] for name in ("agreement", "first", *map(str, SHARES))}
    for layer in exact.spec.layers:
        ours, theirs = top_images(index, layer.name), top_images(exact, layer.name)
        of_layers["agreement"].append(float((ours[:, :, None] == theirs[:, None]).any(2).mean()))
        of_layers["first"].append(float((ours[:, 0] == theirs[:, 0]).mean()))
        one, other = (np.asarray(i.arrays[f"{layer.name}/map"], np.float32) for i in (index, exact))
        spread = np.maximum(other.max(2) - other.min(2), np.finfo(np.float32).tiny)
        errors = np.quantile(np.abs(one - other).max(2) / spread, SHARES)  # of a map: its worst patch
        for share, error in zip(SHARES, errors, strict=True):
            of_layers[str(share)].append(float(error))
    return {name: float(np.mean(values)) for name, values in of_layers.items()}


@click.command()
@click.option("--model")
@click.option("--weights", type=click.Path(path_type=Path))
@click.option("--images")
@click.option("--limit", default=256, show_default=True)
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(model: str | None, weights: Path | None, images: str | None, limit: int, out: Path | None) -> None:
    """The price of bfloat16 and float16."""
    figures = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        request = Request(root, model, images, weights) if model and images else sample_request(root)
        request = replace(request, maps="float16", limit=limit)
        exact = Index(build(replace(request, out=root / "float32"), Quiet()))
        print("| precision | of the top 15 the same | same first image | error of a map, median | of 99% |")
        print("|---|---|---|---|---|")
        cheaper: tuple[Precision, ...] = ("bfloat16", "float16")
        for precision in cheaper:
            with Index(build(replace(request, out=root / precision, precision=precision), Quiet())) as index:
                mean = compare(index, exact)
            figures.append(Figure(f"top 15 in {precision} the same as in float32", mean["agreement"]))
            figures.append(Figure(f"median error of maps in {precision}, of their range", mean["0.5"]))
            shown = f"{mean['agreement']:.1%} | {mean['first']:.1%} | {mean['0.5']:.2%} | {mean['0.99']:.2%}"
            print(f"| {precision} | {shown} |", flush=True)
        exact.close()
    record(out, "precision", figures)


if __name__ == "__main__":
    main()
