"""Train the packaged sample's model on endless composites and export it for timm.

python -m vitdex.data.sample_recipe.train train --stamps STAMPS --run RUN
python -m vitdex.data.sample_recipe.train export --run RUN --out SAMPLE/model
"""

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import timm
import torch
from safetensors.torch import save
from timm.layers.patch_dropout import PatchDropout
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from .compose import PICTURE, TRAINING, Stream, compose
from .make import FOLDER, plan
from .stamps import CLASSES, load_stamps, load_surfaces

ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS: dict[str, Any] = {"img_size": 96, "patch_size": 12, "depth": 6}
LABELS = list(CLASSES)
INPUT = 96
MEAN = STD = 0.5
BATCH = 128
PEAK, WARMUP, DECAY = 1e-3, 300, 0.05
SMOOTHING, DROP_PATH, DROP_PATCHES, MIXUP = 0.1, 0.1, 0.25, 0.2
CHECK_EVERY = 200
STEPS, COOLDOWN = 10300, 900
VALIDATED = 40  # pictures per class, of known and of held-out stamps each


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Training batch ``step``, the same whenever it is asked for."""

    def __init__(self, source: Path) -> None:
        known = [stamp for stamp in load_stamps(source) if not stamp.held_out]
        self.stamps = [[stamp for stamp in known if stamp.label == label] for label in LABELS]
        self.surfaces = load_surfaces(source)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((Stream.TRAINING, step))
        labels = rng.integers(len(LABELS), size=BATCH)
        pictures = []
        for label in labels:
            stamp = self.stamps[label][rng.integers(len(self.stamps[label]))]
            pictures.append(np.asarray(compose(rng, stamp, self.surfaces, TRAINING, INPUT)[0]))
        return torch.from_numpy(np.stack(pictures)), torch.from_numpy(labels)


def normalised(pictures: Tensor) -> Tensor:
    """From bytes, channels last, to what the model takes."""
    return ((pictures.float() / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()


def mixed(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each picture with a little of another laid over it, and the targets to match."""
    targets = nn.functional.one_hot(labels, len(LABELS)).float()
    share = torch.distributions.Beta(MIXUP, MIXUP).sample()
    return share * inputs + (1 - share) * inputs.flip(0), share * targets + (1 - share) * targets.flip(0)


def rate(step: int, steps: int, cooldown: int) -> float:
    """The learning rate: warm-up, constant, then straight down to nothing."""
    return PEAK * min(1.0, (step + 1) / WARMUP, (steps - step) / cooldown)


def validation(source: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Fixed pictures of known and of never-seen stamps, with their labels."""
    surfaces = load_surfaces(source)
    pictures: dict[str, list[Tensor]] = {"known": [], "unseen": []}
    labels: dict[str, list[int]] = {"known": [], "unseen": []}
    for label, number, stamp in plan(load_stamps(source), Stream.VALIDATION, VALIDATED, VALIDATED):
        rng = np.random.default_rng((Stream.VALIDATION, LABELS.index(label), number))
        picture, _ = compose(rng, stamp, surfaces, PICTURE, INPUT)
        kind = "unseen" if stamp.held_out else "known"
        pictures[kind].append(torch.from_numpy(np.array(picture)))
        labels[kind].append(LABELS.index(label))
    stacked = {kind: normalised(torch.stack(shown)) for kind, shown in pictures.items()}
    return {kind: (inputs, torch.tensor(labels[kind])) for kind, inputs in stacked.items()}


@torch.inference_mode()
def hits(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """For each picture, whether the model's first choice is right."""
    model.eval()
    return torch.cat([model(part).argmax(1) for part in torch.split(inputs, 240)]) == labels


def new_model() -> nn.Module:
    dropout: dict[str, Any] = {"drop_path_rate": DROP_PATH, "patch_drop_rate": DROP_PATCHES}
    model: nn.Module = timm.create_model(ARCHITECTURE, num_classes=len(LABELS), **dropout, **MODEL_ARGS)
    return model


def new_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """Weight decay for matrices alone."""
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in model.parameters() if weight.ndim == 2]},
        {"params": [weight for weight in model.parameters() if weight.ndim != 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK, weight_decay=DECAY, fused=True)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, pictures: Tensor, labels: Tensor, cooling: bool) -> float:
    """One step. The cool-down sees whole, unmixed pictures, as the model will be used."""
    model.train()
    for module in model.modules():
        if isinstance(module, PatchDropout):
            module.train(not cooling)
    inputs, targets = normalised(pictures), nn.functional.one_hot(labels, len(LABELS)).float()
    if not cooling:
        inputs, targets = mixed(inputs, labels)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(inputs)
    loss = cross_entropy(outputs.float(), targets, label_smoothing=SMOOTHING)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@click.group()
def main() -> None:
    """Train, export and evaluate the packaged sample's model."""


@main.command()
@click.option("--stamps", "source", type=FOLDER, required=True)
@click.option("--run", type=FOLDER, required=True, help="Checkpoint and log.")
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--cooldown", default=COOLDOWN, show_default=True, help="Steps of falling rate at the end.")
def train(source: Path, run: Path, steps: int, cooldown: int) -> None:
    """Train from RUN's checkpoint on, or anew; its end may be moved until the cool-down has begun."""
    torch.manual_seed(0)
    model = new_model()
    optimizer = new_optimizer(model)
    start, spent = 0, 0.0
    run.mkdir(parents=True, exist_ok=True)
    if (run / "checkpoint.pt").exists():
        state = torch.load(run / "checkpoint.pt")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, spent = state["step"], state["seconds"]
    pictures = validation(source)
    order = range(start, steps)
    loader = DataLoader(Batches(source), batch_size=None, sampler=order, num_workers=1, prefetch_factor=4)
    began = time.monotonic() - spent
    losses = []
    for step, (batch, labels) in enumerate(loader, start):
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, cooldown)
        losses.append(learn(model, optimizer, batch, labels, cooling=step >= steps - cooldown))
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == steps:
            seconds = time.monotonic() - began
            shares = {name: hits(model, *shown).float().mean().item() for name, shown in pictures.items()}
            line = f"{step + 1} {seconds:.0f}s loss {np.mean(losses):.3f} " + ", ".join(
                f"{name} {share:.3f}" for name, share in shares.items()
            )
            click.echo(line)
            with (run / "log.txt").open("a", encoding="utf-8") as log:
                log.write(line + "\n")
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state | {"seconds": seconds}, run / "checkpoint.new")
            (run / "checkpoint.new").replace(run / "checkpoint.pt")
            losses.clear()


@main.command()
@click.option("--run", type=FOLDER, required=True)
@click.option("--out", type=FOLDER, required=True)
def export(run: Path, out: Path) -> None:
    """Write RUN's model in half precision as a folder that timm opens by the name local-dir:OUT."""
    weights = torch.load(run / "checkpoint.pt")["model"]
    out.mkdir(parents=True, exist_ok=True)
    halves = {name: weight.half().contiguous() for name, weight in weights.items()}
    (out / "model.safetensors").write_bytes(save(halves))
    pretrained = {
        "input_size": [3, INPUT, INPUT], "fixed_input_size": True, "pool_size": None,
        "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic",
        "mean": [MEAN] * 3, "std": [STD] * 3,
        "first_conv": "patch_embed.proj", "classifier": "head",
        "num_classes": len(LABELS), "label_names": LABELS, "license": "gpl-2.0",
    }  # fmt: skip
    config = {
        "architecture": ARCHITECTURE, "num_classes": len(LABELS), "num_features": 192, "global_pool": "token",
        "model_args": MODEL_ARGS, "pretrained_cfg": pretrained,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
