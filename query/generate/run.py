"""Images on demand: the loop that optimises them, and what the index says about the result. Imports torch.

target = Target((Neuron("blocks.5.mlp.fc1", 159),), class_id=0)
rows = generate_images(index, target, recipe="default", k=4, seed=0)         # pandas.DataFrame, saved in the notes

live = open_model(index)
for shot in optimise(live, objective, RECIPES["default"], images=4, seed=0):     # the same, saving nothing
    shot.step, shot.pixels                                             # uint8 [image, y, x, channel]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from ...schemas.errors import QueryError
from ..model.live_model import LiveModel, open_model
from ..notes.generated_images import keep
from ..notes.place import check_place
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex
from .judge import judge
from .optimise import Report, optimise
from .recipes import RECIPES, RecipeName
from .target import Target


def generate_images(
    index: StoredIndex,
    target: Target,
    recipe: RecipeName = "default",
    k: int = 4,
    seed: int = 0,
    start: str = "noise",
    snapshots: Sequence[int] = (),
    *,
    steps: int | None = None,
    diversity: float | None = None,
    weights: str | Path | None = None,
    device: str | None = None,
    report: Report = lambda step, value: None,
    save: Callable[[pd.DataFrame], None] = lambda rows: None,
) -> pd.DataFrame:
    """Optimise images and keep every snapshot in the index's notes. Runs the model.

    Args:
        target: what to excite.
        recipe: 'default', 'robust' or 'plain', see recipes.RECIPES.
        k: images made together and pushed apart.
        seed: decides every random draw.
        start: 'noise', 'exemplars' (the mean of the neuron's first 15) or an image of the index.
        snapshots: other steps than the recipe's; the last one ends the run, unless `steps` says more.
        steps: of the whole run, instead of the recipe's; its own snapshots move in proportion.
        diversity: weight of what pushes the k images apart, instead of the recipe's; 0 lets them be alike.
        weights, device: see open_model.
        report: called with the step and the objective, in standard deviations of the neuron over real images.
        save: called with the rows of each snapshot once kept; Ctrl-C keeps one more, then raises.

    Returns:
        The rows of the table `generated`, an image and neuron each.

    Raises:
        QueryError: what the target asks for is not in the index, or notes cannot be written beside it.
        ModelError: see open_model.

    Example:
        >>> generate_images(index, Target((Neuron("blocks.5.mlp.fc1", 159),)), k=4)
    """
    at_least(1, k=k)
    if recipe not in RECIPES:
        raise QueryError(f"no recipe '{recipe}'", f"One of {', '.join(RECIPES)}.")
    made = RECIPES[recipe].adapted(steps, snapshots, diversity)
    check_place(index.layout, adding=len(made.snapshots) * k * math.prod(index.spec.preprocessing["input_size"]))
    live = open_model(index, weights, device)
    objective = target.objective(live, seed)
    kept = []
    for shot in optimise(
        live, objective, made, k, seed, beginning(live, target, start, k), target.neurons[0].layer, report
    ):
        rows = judge(live, target, shot.pixels).assign(
            class_id=pd.Series([target.class_id] * k * len(target.neurons), dtype="UInt32"),
            recipe=recipe if diversity is None else f"{recipe}, diversity {diversity:g}",
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
