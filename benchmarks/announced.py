"""The memory that `vitdex index` announces, against the peak of the program with the processes that decode.

python benchmarks/announced.py --images DIR

Asked: within 15% in each of five settings: small and large models, all forms of maps, with and without decoders.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import timm
import torch
from record import Figure, record, tree_bytes
from safetensors.torch import save_file
from throughput import jpegs

SECONDS = 0.1  # between two looks
ASKED = 0.15
SMALL, BASE = "vit_small_patch16_224", "vit_base_patch16_224"
SETTINGS = {
    "the sample": "--sample",
    "the sample, exemplars' maps, fc2 as well, 2 decoders": "--sample --maps exemplars --layer fc1 --layer fc2 "
    "--workers 2",
    "ViT-S/16, 384 images": f"--model {SMALL} --limit 384",
    "ViT-S/16 without maps, all layers, batches of 64, 2 decoders": f"--model {SMALL} --limit 256 --maps none "
    "--layer fc1 --layer attn --layer fc2 --batch-size 64 --workers 2",
    "ViT-B/16, float16 maps, batches of 16, no decoder": f"--model {BASE} --limit 48 --maps float16 --batch-size 16 "
    "--workers 0",
}
UNITS = {"MB": 1e6, "GB": 1e9}


def watched(words: list[str]) -> tuple[float, int]:
    """Bytes announced, and the peak, of a run of the program."""
    peak = 0
    with tempfile.TemporaryFile("w+") as said:
        run = subprocess.Popen([sys.executable, "-m", "vitdex.query", *words], stdout=said, stderr=subprocess.STDOUT)
        while run.poll() is None:
            peak = max(peak, tree_bytes(run.pid))
            time.sleep(SECONDS)
        said.seek(0)
        text = said.read()
    found = re.search(r"memory about ([\d.]+) (MB|GB)", text)
    if run.returncode or found is None:
        raise click.ClickException(text)
    return float(found[1]) * UNITS[found[2]], peak


@click.command()
@click.option("--images", help="Images to measure with; made where there are none.")
@click.option("--record", "out", type=click.Path(path_type=Path), help="Also write the figures into this folder.")
def main(images: str | None, out: Path | None) -> None:
    """The memory announced, against the peak of the process tree."""
    figures = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folder = images or str(root / "images")
        if images is None:
            jpegs(root / "images", 384)
        for model in (SMALL, BASE):
            torch.manual_seed(0)
            save_file(timm.create_model(model).state_dict(), root / f"{model}.safetensors")
        for number, (name, setting) in enumerate(SETTINGS.items()):
            words = ["index", str(root / f"{number}"), *setting.split()]
            for model in (SMALL, BASE):
                if model in words:
                    words += ["--images", folder, "--weights", str(root / f"{model}.safetensors")]
            announced, peak = watched(words)
            click.echo(f"{name}: announced {announced / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB")
            figures.append(Figure(f"memory announced against peak: {name}", abs(announced / peak - 1), "", ASKED))
    record(out, "announced", figures)


if __name__ == "__main__":
    main()
