"""The packaged sample's index, made on a device and on the CPU in float32: how far every kind of array differs.

python benchmarks/devices.py --device cuda

Values: the largest difference, of the largest value. Places (argmax, token_top): the share that differs; ties may.
Codes of maps: the largest difference in codes. Batches are small, so that many are in flight one after another. It
fails where anything differs by more than rounding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import zarr
from numpy.typing import NDArray
from vitdex.indexer import build_index

ROUNDING = 1e-3  # float16 features differ by 2e-4


def arrays_of(group: Any, path: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array of an index by its path."""
    for name, member in sorted(group.members()):
        if isinstance(member, zarr.Group):
            yield from arrays_of(member, f"{path}{name}/")
        else:
            yield f"{path}{name}", member[:]


def difference(leaf: str, here: NDArray[Any], there: NDArray[Any]) -> float:
    if here.dtype.kind == "f":
        apart = np.abs(here.astype(np.float64) - there.astype(np.float64))
        return float(np.nanmax(apart) / max(np.nanmax(np.abs(here.astype(np.float64))), 1e-30))
    if leaf == "map":
        return float(np.abs(here.astype(int) - there.astype(int)).max())
    return float((here != there).mean())


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--batch-size", default=16, show_default=True)
def main(device: str, batch_size: int) -> None:
    """Compare a device with the CPU."""
    worst: dict[str, tuple[float, str]] = {}
    with tempfile.TemporaryDirectory() as place:
        indexes: list[Any] = []
        for name in ("cpu", device):
            out = build_index(
                Path(place) / f"on-{name}-{len(indexes)}", sample=True, device=name, batch_size=batch_size
            )
            indexes.append(zarr.open(store=Path(out) / "activations.zarr", mode="r"))
        for (path, here), (_, there) in zip(*map(arrays_of, indexes), strict=True):
            leaf = path.split("/")[-1]
            worst[leaf] = max(worst.get(leaf, (-1.0, "")), (difference(leaf, here, there), path))
    click.echo(f"the sample on {device} beside the CPU, float32, batches of {batch_size}")
    for leaf, (found, path) in sorted(worst.items(), key=lambda item: -item[1][0]):
        click.echo(f"| {leaf} | {found:.2g} | {path} |")
    if any(found > (1 if leaf == "map" else ROUNDING) for leaf, (found, _) in worst.items()):
        raise SystemExit("They are not the same index.")


if __name__ == "__main__":
    main()
