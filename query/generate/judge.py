"""What the model makes of generated images, against the real ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..model.live_model import LiveModel
from .objectives import gram_cosines, see
from .optimise import likeness
from .target import Target

Values = NDArray[np.float32]
ALIKE = 1e-5  # of the largest value: what rounding makes of equal images


def judge(live: LiveModel, target: Target, pixels: NDArray[np.uint8]) -> pd.DataFrame:
    """What the model makes of the images as saved, one row an image and neuron.

    pre and post are this neuron's values on the patches. ratio: (value - median) / (best - median) over the real images
    of the index, 1 is as good as the best; percentile: percent of the real images below. Both by what was excited: the
    mean, the largest patch (for objectives on the max or one patch), or the logit; NaN where the real images do not
    differ in it. p_class: of the class that was asked
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
        neurons = live.index.neuron_layer(*neuron).has_value_vectors
        post = live.layer(neuron.layer).act(pre) if neurons else torch.full_like(pre, torch.nan)
        if target.over == "logit":
            assert target.class_id is not None  # Target.objective has seen to it
            value, stored = seen.logits[:, target.class_id], live.index.reader.column("logits", target.class_id)
        elif target.over == "mean":
            value, stored = pre.mean(1), live.index.reader.column(f"{neuron.layer}/mean", neuron.unit)
        else:
            value, stored = pre.amax(1), live.index.reader.cell(f"{neuron.layer}/max_by_neuron", neuron.unit)
        reached, real = value.cpu().numpy(), np.asarray(stored)
        ratio, percentile = _among(reached, real[np.isfinite(real)])
        found = {
            "image": np.arange(len(pixels)),
            "layer": neuron.layer,
            "unit": neuron.unit,
            "pre_mean": pre.mean(1).cpu().numpy(),
            "pre_max": pre.amax(1).cpu().numpy(),
            "post_mean": post.mean(1).cpu().numpy(),
            "post_max": post.amax(1).cpu().numpy(),
            "ratio": ratio,
            "percentile": percentile,
            "p_class": chance,
            "predicted": answer,
            "diversity": alike,
        }
        rows.append(pd.DataFrame(found))
    return pd.concat(rows, ignore_index=True)


def _among(reached: Values, real: Values) -> tuple[Values, Values]:
    """ratio and percentile of values among those of real images; NaN where these are one image, or images alike."""
    middle, best = np.median(real), real.max()
    if best - middle <= ALIKE * np.abs(real).max():
        return np.full_like(reached, np.nan), np.full_like(reached, np.nan)
    return (reached - middle) / (best - middle), 100 * (real[None] < reached[:, None]).mean(1)
