"""What tokens say of classes on their way through the model: composition and class identifiability. Imports torch.

Definitions of Vilas et al. 2023 (arXiv 2310.18969). Images run through the model from their stored inputs, in batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..schemas.errors import QueryError
from ..schemas.records import TOKEN_TOP
from .agreement import by_tokens, labelled
from .index import Index
from .live import LiveModel, open_model

IMAGES_AT_ONCE = 8  # whose tokens are kept in all blocks


@torch.inference_mode()
def composition(index: Index, weights: str | Path | None = None, device: str = "cpu") -> pd.DataFrame:
    """How classes come about, one row a block and kind of token ('cls', 'patches', 'all').

    match: a token's share where the top class of head(norm(fc2 output)), biases included, is the top class of one of
    its five largest neurons by itself (by raw score); compositional = 1 - match. identifiability: the mean of
    1 - rank / classes, with the rank (from 0) of the image's class in head(norm(x)), x the token behind the block.
    Columns: layer, block, tokens, n, match, compositional, identifiability.
    Raises QueryError without a head, labels or inputs, and ModelError where the weights are not those of the index.
    """
    ids, classes = labelled(index)
    live = open_model(index, weights, device)
    if live.anatomy.readout.norm is None:
        raise QueryError(f"no class can be read from a token: {index.spec.readout}", "It needs a norm before the head.")
    hidden = [s for s in index.spec.layers if s.kind == "hidden"]
    speaker = _Speaker(live)
    own = {s.name: torch.from_numpy(_top_classes(index, s.name)).to(device) for s in hidden}
    match = {s.name: np.zeros(index.spec.tokens) for s in hidden}
    known = {s.name: np.zeros(index.spec.tokens) for s in hidden}
    for start in tqdm(range(0, len(ids), IMAGES_AT_ONCE), desc="images", unit="batch", disable=None):
        some = ids[start : start + IMAGES_AT_ONCE]
        truth = torch.from_numpy(classes[start : start + IMAGES_AT_ONCE]).to(device)
        with _written(live, [s.name for s in hidden]) as kept:
            live(live.pixels(some.tolist()), [])
        for layer in hidden:
            fc1, fc2, stream = kept[layer.name]
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
        self.head = torch.tensor(live.index.arrays["head"][:], device=live.device)
        # what a logit holds whatever the token: E . beta of the norm, and the head's bias
        offset = live.index.sql("SELECT logit_offset FROM classes ORDER BY class_id").logit_offset
        self.offset = torch.tensor(offset.to_numpy(np.float32), device=live.device)
        self.norm = replace(norm, weight=norm.weight.to(live.device), bias=norm.bias.to(live.device))

    def __call__(self, tokens: Tensor) -> Tensor:
        folded = self.norm.fold(tokens.float()) / self.norm.sigma(tokens)[..., None]
        return folded @ self.head.T + self.offset


@contextmanager
def _written(live: LiveModel, names: list[str]) -> Iterator[dict[str, list[Tensor]]]:
    """While inside: every layer's values before the nonlinearity, its fc2 output, and the stream behind its block."""
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = []
    for name in names:
        layer = live.layer(name)
        block = live.anatomy.model.get_submodule(f"blocks.{layer.block}")
        hooks += [
            module.register_forward_hook(lambda m, args, out, name=name: kept[name].append(out))
            for module in (layer.fc1, layer.fc2, block)
        ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _top_classes(index: Index, layer: str) -> NDArray[np.int64]:
    """The class that each unit's value vector says loudest: int64 [unit]."""
    found = index.sql("SELECT class_id FROM class_scores WHERE layer = ? AND rank_in_unit = 1 ORDER BY unit", [layer])
    return found.class_id.to_numpy(np.int64)
