"""All that the benchmarks have recorded in a folder: one table, one JSON file, one picture.

python benchmarks/report.py FOLDER
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from datetime import date
from pathlib import Path

import click
import torch
from matplotlib.figure import Figure as Picture
from record import HEADER, Figure, recorded

TICKS = (0.5, 1, 2, 5, 10, 20, 50)
MOST = 300  # where the figures stand


def draw(figures: list[Figure], output: Path) -> None:
    """How far each figure reaches what was asked of it."""
    picture = Picture(figsize=(7.5, 0.26 * len(figures) + 0.9), layout="constrained")
    axis = picture.subplots()
    for place, figure in enumerate(figures):
        reached = figure.reached or 0.0
        colour = "#4477aa" if reached >= 1 else "#cc6677"
        axis.plot([1, reached], [place, place], color=colour, linewidth=2)
        axis.plot(reached, place, "o", color=colour)
        axis.text(MOST, place, f"{figure.value:.3g} {figure.unit}", ha="right", va="center", fontsize=7)
    axis.axvline(1, color="black", linewidth=1, linestyle="--")
    axis.set_xscale("log")
    axis.set_xlim(0.5, MOST)
    axis.set_xticks(TICKS, map(str, TICKS))
    axis.minorticks_off()
    axis.set_yticks(range(len(figures)), [figure.what for figure in figures], fontsize=7)
    axis.set_xlabel("measured against asked; 1 and above is enough")
    axis.spines[["top", "right"]].set_visible(False)
    axis.invert_yaxis()
    picture.savefig(output, dpi=150)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def main(folder: Path) -> None:
    """The table on standard output; report.json and report.png in the folder above."""
    by_benchmark = recorded(folder)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    machine = {"date": date.today().isoformat(), "device": device, "processor": platform.processor() or "unknown"}
    print(f"{machine['date']}, {machine['device']}, torch {torch.__version__}\n\n{HEADER}")
    for figures in by_benchmark.values():
        for figure in figures:
            print(figure.line)
    content = {"machine": machine} | {name: [asdict(f) for f in figures] for name, figures in by_benchmark.items()}
    folder.with_suffix(".json").write_text(json.dumps(content, indent=1))
    asked = [figure for figures in by_benchmark.values() for figure in figures if figure.asked is not None]
    if asked:
        draw(asked, folder.with_suffix(".png"))


if __name__ == "__main__":
    main()
