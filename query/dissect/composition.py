"""What tokens say of classes on their way through the model: composition and class identifiability. Imports torch.

Definitions of Vilas et al. 2023 (arXiv 2310.18969). Images run through the model from their stored inputs, in batches.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, tracked
from ...schemas.run_spec import TOKEN_TOP
from ..lookups.class_images import labelled_images
from ..lookups.key_neurons import needs_head, needs_neurons
from ..model.edits import recording
from ..model.live_model import LiveModel, open_model
from ..stored.stored_index import StoredIndex
from .agreement import by_tokens

IMAGES_AT_ONCE = 8  # whose tokens are kept in all blocks


@torch.inference_mode()
def composition(
    index: StoredIndex,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """How classes come about, one row a block and kind of token (Vilas et al. 2023). Runs the model.

    Args:
        weights, device: see open_model.
        progress: told batches of images done, and all batches.

    Returns:
        Columns layer, block, tokens ('cls', 'patches', 'all'), n, match, compositional, identifiability. match: a
        token's share where the top class of head(norm(fc2 output)), biases included, is the top class of one of its
        five largest neurons by itself (by raw score); compositional = 1 - match. identifiability: the mean of 1 - rank
        / classes, with the rank (from 0) of the image's class in head(norm(x)), x the token after the block.

    Raises:
        QueryError: no head, neurons of MLPs, labels or inputs. ModelError: other weights than those of the index.

    Example:
        >>> composition(index).query("tokens == 'cls'").match
    """
    needs_head(index)
    needs_neurons(index)
    images = labelled_images(index)
    ids, classes = images.image_id.to_numpy(), images.class_id.to_numpy()
    live = open_model(index, weights, device)
    if live.anatomy.readout.norm is None:
        raise QueryError(f"no class can be read from a token: {index.spec.readout}", "It needs a norm before the head.")
    hidden = index.hidden_layers
    speaker = _Speaker(live)
    own = {s.name: torch.tensor(_top_classes(index, s.name), device=live.device) for s in hidden}
    match = {s.name: np.zeros(index.spec.tokens) for s in hidden}
    known = {s.name: np.zeros(index.spec.tokens) for s in hidden}
    for start in tracked(range(0, len(ids), IMAGES_AT_ONCE), progress):
        some = ids[start : start + IMAGES_AT_ONCE]
        truth = torch.tensor(classes[start : start + IMAGES_AT_ONCE], device=live.device)
        names = [s.name for s in hidden]
        with recording(_modules(live, names)) as kept:
            fc1s = live(live.pixels(some.tolist()), names)[1]
        for layer in hidden:
            fc1, fc2, stream = fc1s[layer.name], kept[f"{layer.name} fc2"], kept[f"{layer.name} block"]
            says = speaker(fc2).argmax(-1)
            top = own[layer.name][fc1.topk(TOKEN_TOP, -1).indices]
            match[layer.name] += (top == says[..., None]).any(-1).sum(0).cpu().numpy()
            logits = speaker(stream)
            right = logits.gather(-1, truth[:, None, None].expand(*logits.shape[:2], 1))
            known[layer.name] += (1 - (logits > right).float().mean(-1)).sum(0, dtype=torch.float64).cpu().numpy()
    rows = []
    for layer in hidden:
        matches = by_tokens(index, layer, match[layer.name] / len(ids), len(ids), "match")
        knowns = by_tokens(index, layer, known[layer.name] / len(ids), len(ids), "identifiability")
        rows += [a | {"compositional": 1 - a["match"]} | b for a, b in zip(matches, knowns, strict=True)]
    return pd.DataFrame(rows)


class _Speaker:
    """head(norm(x)) of any token, with the head of the index (the model's own, or the one a file brought)."""

    def __init__(self, live: LiveModel) -> None:
        norm = live.anatomy.readout.norm
        assert norm is not None
        self.head = torch.tensor(live.index.reader.whole("head"), device=live.device)
        # what a logit holds whatever the token: E . beta of the norm, and the head's bias
        offset = live.index.sql("SELECT logit_offset FROM classes ORDER BY class_id").logit_offset
        self.offset = torch.tensor(offset.to_numpy(np.float32), device=live.device)
        self.norm = replace(norm, weight=norm.weight.to(live.device), bias=norm.bias.to(live.device))

    def __call__(self, tokens: Tensor) -> Tensor:
        folded = self.norm.fold(tokens.float()) / self.norm.sigma(tokens)[..., None]
        return folded @ self.head.T + self.offset


def _modules(live: LiveModel, names: list[str]) -> dict[str, nn.Module]:
    """What writes each layer's fc2 output, and the stream after its block."""
    modules: dict[str, nn.Module] = {}
    for name in names:
        layer = live.layer(name)
        block = live.anatomy.model.get_submodule(f"blocks.{layer.block}")
        modules |= {f"{name} fc2": layer.out, f"{name} block": block}
    return modules


def _top_classes(index: StoredIndex, layer: str) -> NDArray[np.int64]:
    """The class that each unit's value vector says loudest: int64 [unit]."""
    found = index.sql("SELECT class_id FROM class_scores WHERE layer = ? AND rank_in_unit = 1 ORDER BY unit", [layer])
    return found.class_id.to_numpy(np.int64)
