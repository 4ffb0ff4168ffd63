"""Images on demand: the loop that optimises them, and what the index says about the result. Imports torch.

live = open_model(index)
target = Target((Neuron("blocks.5.mlp.fc1", 159),), class_id=0)
rows = generate(live, target, recipe="default", images=4, seed=0)     # pandas.DataFrame, saved in the notes
for shot in optimise(live, objective, RECIPES["default"], images=4, seed=0):     # the same, saving nothing
    shot.step, shot.pixels                                             # uint8 [image, y, x, channel]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..schemas.errors import QueryError
from .generated import keep
from .live import LiveModel
from .recipes import RECIPES, Canvas, Recipe, total_variation
from .stimulus import Neuron, Objective, away_from, class_logit, excite, gram_cosines, like_stored, see, siblings

Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Target:
    """What to excite, and how: the words of the command line.

    over: 'mean' or 'max' over the patches, the number of one patch, or 'logit' of the class.
    post: behind the nonlinearity. contrast: 'siblings' (not the top neurons of the classes nearest to it) or 'features'
    (InfoNCE against stored features, towards the class's images, or the neuron's top ones where there is no class).
    """

    neurons: tuple[Neuron, ...]
    class_id: int | None = None
    over: str | int = "mean"
    post: bool = False
    contrast: str | None = None

    def objective(self, live: LiveModel, seed: int) -> Objective:
        """Raises QueryError where the target asks for what the index does not have."""
        if (self.over == "logit" or self.contrast == "siblings") and self.class_id is None:
            raise QueryError("this objective needs a class", "Give --class.")
        if self.over == "logit" and self.class_id is not None:
            found = class_logit(live, self.class_id)
        else:
            found = excite(live, self.neurons, self.over, self.post)
        if self.contrast == "siblings" and self.class_id is not None:
            found += away_from(live, siblings(live.index, self.class_id, self.neurons))
        if self.contrast == "features":
            found += like_stored(
                live, self._positives(live), seed, "its class" if self.class_id is not None else "its top"
            )
        return found

    def _positives(self, live: LiveModel) -> NDArray[np.int64]:
        if self.class_id is None:
            return live.index.exemplars(*self.neurons[0]).image_id.to_numpy(np.int64)
        ids = live.index.sql(
            "SELECT image_id FROM images WHERE class_id = ? AND predicted IS NOT NULL", [self.class_id]
        )
        if ids.empty:
            raise QueryError(f"no images of class {self.class_id}", "Give --neuron alone: its exemplars are used.")
        return ids.image_id.to_numpy(np.int64)[:100]


def generate(
    live: LiveModel,
    target: Target,
    recipe: str = "default",
    images: int = 4,
    seed: int = 0,
    start: str = "noise",
    snapshots: Sequence[int] = (),
    report: Report = lambda step, value: None,
    save: Callable[[pd.DataFrame], None] = lambda rows: None,
) -> pd.DataFrame:
    """Optimise a batch of images and keep every snapshot in the index's notes: the rows of `generated`.

    start: 'noise', 'exemplars' (the mean of the neuron's first 15) or an image of the index. snapshots: other steps
    than the recipe's. save: called with the rows of each snapshot once kept; Ctrl-C keeps one more, then raises.
    """
    made = RECIPES[recipe]
    if snapshots:
        made = replace(made, snapshots=tuple(sorted(snapshots)))
    objective = target.objective(live, seed)
    kept = []
    for shot in optimise(
        live, objective, made, images, seed, beginning(live, target, start, images), target.neurons[0].layer, report
    ):
        rows = judge(live, target, shot.pixels).assign(
            class_id=pd.Series([target.class_id] * images * len(target.neurons), dtype="UInt32"),
            recipe=recipe,
            seed=seed,
            step=shot.step,
            objective=objective.name if start == "noise" else f"{objective.name} from {start}",
        )
        kept.append(keep(live.index.layout, shot.pixels, rows))
        save(kept[-1])
    return pd.concat(kept, ignore_index=True)


def beginning(live: LiveModel, target: Target, start: str, images: int) -> Tensor | None:
    """The images to start from, [image, channel, y, x]; None for noise on grey."""
    if start == "noise":
        return None
    if start == "exemplars":
        ids = live.index.exemplars(*target.neurons[0], k=15).image_id.tolist()
    else:
        ids = [live.index.image_id(start)]
    return live.pixels(ids).mean(0, keepdim=True).repeat(images, 1, 1, 1)


def judge(live: LiveModel, target: Target, pixels: NDArray[np.uint8]) -> pd.DataFrame:
    """What the model makes of the images as saved, one row an image and neuron.

    pre and post are this neuron's values on the patches. ratio: (value - median) / (best - median) over the real images
    of the index, 1 is as good as the best; percentile: percent of the real images below. Both by what was excited: the
    mean, the largest patch (for objectives on the max or one patch), or the logit. p_class: of the class that was asked
    for; predicted: the class that the model names. diversity: the mean cosine of its
    Gram matrix with the others'.
    """
    layers = tuple(dict.fromkeys(neuron.layer for neuron in target.neurons))
    with torch.inference_mode():
        seen = see(live, torch.from_numpy(pixels).to(live.device).permute(0, 3, 1, 2).float() / 255, layers)
    several = len(pixels) > 1
    alike = likeness(gram_cosines(seen.values[layers[0]])).cpu().numpy() if several else np.nan
    named = live.spec.classes and target.class_id is not None
    chance = seen.logits.softmax(1)[:, target.class_id].cpu().numpy() if named else np.nan
    answer = pd.array(seen.logits.argmax(1).tolist() if live.spec.classes else [None] * len(pixels), dtype="UInt32")
    rows = []
    for neuron in target.neurons:
        pre = seen.values[neuron.layer][..., neuron.unit]
        hidden = live.index.neuron_layer(*neuron).kind == "hidden"
        post = live.layer(neuron.layer).act(pre) if hidden else torch.full_like(pre, torch.nan)
        if target.over == "logit":
            value, stored = seen.logits[:, target.class_id], live.index.arrays["logits"][:, target.class_id]
        elif target.over == "mean":
            value, stored = pre.mean(1), live.index.arrays[f"{neuron.layer}/mean"][:, neuron.unit]
        else:
            value, stored = pre.amax(1), live.index.arrays[f"{neuron.layer}/max"][:, neuron.unit]
        reached, real = value.cpu().numpy(), np.asarray(stored)
        real = real[np.isfinite(real)]
        middle = np.median(real)
        found = {
            "image": np.arange(len(pixels)),
            "layer": neuron.layer,
            "unit": neuron.unit,
            "pre_mean": pre.mean(1).cpu().numpy(),
            "pre_max": pre.amax(1).cpu().numpy(),
            "post_mean": post.mean(1).cpu().numpy(),
            "post_max": post.amax(1).cpu().numpy(),
            "ratio": (reached - middle) / (real.max() - middle),
            "percentile": 100 * (real[None] < reached[:, None]).mean(1),
            "p_class": chance,
            "predicted": answer,
            "diversity": alike,
        }
        rows.append(pd.DataFrame(found))
    return pd.concat(rows, ignore_index=True)


@dataclass(frozen=True)
class Snapshot:
    """Images [image, y, x, channel], 0 to 255, behind so many steps."""

    step: int
    pixels: NDArray[np.uint8]


def optimise(
    live: LiveModel,
    objective: Objective,
    recipe: Recipe,
    images: int,
    seed: int,
    start: Tensor | None = None,
    diverse_in: str | None = None,
    report: Report = lambda step, value: None,
) -> Iterator[Snapshot]:
    """Optimise a batch of images; one snapshot at each of the recipe's steps, or where Ctrl-C stopped it.

    start: float [image, channel, y, x], 0 to 1 (grey without it). diverse_in: the layer whose Gram matrices are
    pushed apart.
    Memory holds one pass of the batch, whatever the recipe's copies. Equal seeds give equal images on one device.
    """
    draw = torch.Generator().manual_seed(seed)
    _, height, width = live.spec.preprocessing["input_size"]
    if start is None:
        start = torch.full((images, 3, height, width), 0.5, device=live.device)
    canvas = recipe.canvas(start, draw)
    optimiser = recipe.optimiser(canvas)
    step = 0
    try:
        for step in range(1, recipe.steps + 1):
            optimiser.param_groups[0]["lr"] = recipe.rate_at(step - 1)
            optimiser.zero_grad()
            value = sum(_climb(live, objective, recipe, canvas, step, draw, diverse_in) for _ in range(recipe.copies))
            optimiser.step()
            canvas.settle()
            report(step, value / recipe.copies)
            if step in recipe.snapshots:
                yield Snapshot(step, shown(canvas))
    except KeyboardInterrupt:
        yield Snapshot(step, shown(canvas))
        raise


def _climb(
    live: LiveModel,
    objective: Objective,
    recipe: Recipe,
    canvas: Canvas,
    step: int,
    draw: torch.Generator,
    diverse_in: str | None,
) -> float:
    """Add one view's share to the gradient; the objective's mean over the images."""
    pixels = canvas.pixels()
    view = recipe.augment(pixels, live.std, draw, left=1 - step / recipe.steps)
    diverse = diverse_in if recipe.diversity and len(pixels) > 1 else None
    seen = see(live, view, [*dict.fromkeys((*objective.layers, *([diverse] if diverse else [])))])
    value = objective(seen)
    loss = recipe.tv * total_variation(pixels) - value
    if diverse:
        loss = loss + recipe.diversity * likeness(gram_cosines(seen.values[diverse]))
    torch.autograd.backward(loss.sum() / recipe.copies)
    return float(value.detach().mean())


def likeness(cosines: Tensor) -> Tensor:
    """Each image's mean cosine with the others: [image] from [image, image]."""
    return (cosines.sum(1) - cosines.diagonal()) / (len(cosines) - 1)


def shown(canvas: Canvas) -> NDArray[np.uint8]:
    """The images as they are saved, and judged: 8 bits."""
    with torch.no_grad():
        return (canvas.pixels() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
