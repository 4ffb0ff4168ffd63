"""The effect of a neuron token by token, by hooks of torch alone: its mean over all images, and plain autograd."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from vitdex.query.model.live_model import LiveModel


def effect_by_hand(
    live: LiveModel,
    module: nn.Module,
    unit: int,
    class_id: int,
    image_id: int,
    logits: Callable[[Tensor], Tensor] | None = None,
) -> NDArray[np.float32]:
    """(h - mean of h) times the gradient of the class's logit minus the mean of all, [token].

    module: the linear layer that reads h. The mean is that of all patches of all readable images, or of each prefix
    token for itself. logits: the answer to normalised pixels; None for the model's own.
    """
    answer, prefix = logits or live.anatomy.model, live.spec.prefix
    read: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    valid = np.flatnonzero(live.index.reader.whole("valid")).tolist()
    with torch.no_grad():
        for start in range(0, len(valid), 60):
            answer((live.pixels(valid[start : start + 60]) - live.mean) / live.std)
        every = torch.cat(read)[..., unit]
        mean = torch.cat([every[:, :prefix].mean(0), every[:, prefix:].mean().expand(every.shape[1] - prefix)])
    pixels = ((live.pixels([image_id]) - live.mean) / live.std).requires_grad_()
    of_classes = answer(pixels)[0]
    hook.remove()
    gradient = torch.autograd.grad(of_classes[class_id] - of_classes.mean(), read[-1])[0]
    values: NDArray[np.float32] = ((read[-1] - mean[:, None]) * gradient)[0, :, unit].detach().numpy()
    return values
