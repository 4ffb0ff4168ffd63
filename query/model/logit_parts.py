"""A class's logit on images, taken apart into what every block's attention and MLP add. Imports torch: it runs a model.

parts = logit_parts(open_model(index), class_id=2, image_ids=[83, 84])
parts.shares.sum(1), parts.logits      # the same, up to float32's rounding

The head reads a sum: what stood in the residual stream before the first block, and what each branch of each block has
added to it. All that follows (mean over the patches, final norm at its own sigma, head) is linear, so each addend has a
share in the logit, and the shares add up to it. docs/concepts/measures.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.models.anatomy import UnitLayer
from ...schemas.errors import QueryError
from ...schemas.progress import Progress, tracked
from .edits import changed
from .live_model import LiveModel

BATCH = 8  # images whose units of all layers are kept at once
WHOLE = 1e-3  # of the largest share: how near the sum must come to the logit

Part = Literal[
    "embedding",
    "attention units",
    "attention bias",
    "MLP neurons",
    "MLP bias",
    "final norm's bias",
    "head's bias",
]
Term = tuple[int | None, Part]  # the block, if it is of one


@dataclass(frozen=True)
class LogitParts:
    """float64 `shares` [image, term] of `terms`, in the model's order, and `logits` [image] as the head gives them."""

    terms: tuple[Term, ...]
    shares: NDArray[np.float64]
    logits: NDArray[np.float64]


def logit_parts(
    live: LiveModel, class_id: int, image_ids: Sequence[int], progress: Progress | None = None
) -> LogitParts:
    """Every term of a class's logit on readable images, in float64 from what the model computes in float32.

    Biases hold what is added whatever the units: of the last linear layer and, in post-norm blocks, of the norm after.
    Raises QueryError where the head or the attention cannot be read so, and where the terms are not the whole logit.
    """
    _check(live)
    reading = _Reading(live, class_id)
    rows, logits = [], []
    for start in tracked(range(0, len(image_ids), BATCH), progress):
        with torch.inference_mode(), _watching(live) as seen:
            live(live.pixels(image_ids[start : start + BATCH]), [])
        terms = reading.terms(seen)
        rows.append(torch.stack(list(terms.values()), 1).numpy())
        logits.append(reading.logit(seen["head"]).numpy())
    shares, whole = np.concatenate(rows), np.concatenate(logits)
    if (np.abs(shares.sum(1) - whole) > WHOLE * np.abs(shares).max(1)).any():
        raise QueryError(
            "attention and MLPs do not add up to this model's logit",
            "Something else writes to its stream, and cannot be told apart here.",
        )
    return LogitParts(tuple(terms), shares, whole)


def _check(live: LiveModel) -> None:
    """Raise QueryError where terms of a logit are not defined."""
    anatomy = live.anatomy
    if not anatomy.readout.defined:
        raise QueryError(
            f"no logit of this model can be taken apart: {anatomy.readout.kind}", "It needs a norm before the head."
        )
    if not anatomy.attention:
        raise QueryError(
            f"no logit of this model can be taken apart: {anatomy.no_attention}", "Its MLPs alone are in key_neurons."
        )


@contextmanager
def _watching(live: LiveModel) -> Iterator[dict[str, Tensor]]:
    """While inside: what the tokens that the head reads bring to every layer, in and out of the blocks; and the head's
    own input."""
    anatomy, seen = live.anatomy, dict[str, Tensor]()
    blocks = [layer.block for layer in anatomy.layers]

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda x: seen.__setitem__(name, (x if name == "head" else _head_tokens(live, x)).cpu())

    with ExitStack() as hooks:
        for block, name in ((min(blocks), "input"), (max(blocks), "output")):
            module = anatomy.model.get_submodule(f"blocks.{block}")
            hooks.enter_context(changed(module, keep(name), "input" if name == "input" else "output"))
        for layer in anatomy.every_layer:
            hooks.enter_context(changed(layer.out, keep(layer.name), "input"))
            if layer.post_norm_module is not None:
                hooks.enter_context(changed(layer.post_norm_module, keep(f"{layer.name} post"), "input"))
        hooks.enter_context(changed(anatomy.head, keep("head"), "input"))
        yield seen


def _head_tokens(live: LiveModel, x: Tensor) -> Tensor:
    """Of tokens [image, token, ...], those that the head reads, in memory of their own: token 0, or all patches."""
    return x[:, :1].clone() if live.anatomy.readout.kind == "token" else x[:, live.anatomy.prefix :]


class _Reading:
    """What a class's row of the head makes of the stream."""

    def __init__(self, live: LiveModel, class_id: int) -> None:
        self.anatomy = live.anatomy
        norm = live.anatomy.readout.norm
        assert norm is not None  # the readout is defined
        self.norm = norm
        self.row = torch.from_numpy(live.index.reader.chunk("head")[class_id].astype(np.float64))
        offset = live.index.look_up("SELECT logit_offset FROM classes WHERE class_id = ?", [class_id]).logit_offset[0]
        self.norm_bias = float(norm.bias.double().expand(len(self.row)) @ self.row)
        self.head_bias = float(offset) - self.norm_bias
        self.scores = {layer.name: self._folded(layer, layer.value_vectors.cpu()) for layer in self.anatomy.every_layer}

    def _folded(self, layer: UnitLayer, vectors: Tensor) -> Tensor:
        """Folded scores of vectors [..., d] at a layer's output: float64 [...]."""
        return self.anatomy.fold(layer, vectors.double()) @ self.row

    def logit(self, features: Tensor) -> Tensor:
        """float64 [image] from what the head reads."""
        return features.double() @ self.row + self.head_bias

    def terms(self, seen: dict[str, Tensor]) -> dict[Term, Tensor]:
        """Every term in the model's order: float64 [image]. Parallel branches of a block are one."""
        weights = self._weights(seen["output"])
        start = torch.einsum("nt,ntd->nd", weights, seen["input"].double())
        terms: dict[Term, Tensor] = {(None, "embedding"): self.norm.fold(start) @ self.row}
        for layer in self.anatomy.every_layer:
            units, bias = self._branch(layer, seen, weights)
            names: tuple[Part, Part] = (
                ("attention units", "attention bias") if layer.kind == "attention" else ("MLP neurons", "MLP bias")
            )
            for name, share in zip(names, (units, bias), strict=True):
                terms[layer.block, name] = terms.get((layer.block, name), torch.zeros_like(share)) + share
        terms[None, "final norm's bias"] = torch.full_like(start[:, 0], self.norm_bias)
        terms[None, "head's bias"] = torch.full_like(start[:, 0], self.head_bias)
        return terms

    def _weights(self, stream: Tensor) -> Tensor:
        """What the head reads of a 1 on each of its tokens, up to the norm's gain: float64 [image, token]."""
        tokens = stream.shape[1]
        pooled = self.anatomy.readout.kind == "mean"
        sigma = self.norm.sigma(stream.mean(1, keepdim=True) if pooled else stream).double()
        return (1 / (sigma * tokens)).expand(-1, tokens)

    def _branch(self, layer: UnitLayer, seen: dict[str, Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
        """The shares of a layer's units and of its biases: float64 [image]."""
        read, of_norm = weights, torch.zeros(len(weights), dtype=torch.float64)
        if layer.post_norm is not None:
            read = weights / layer.post_norm.sigma(seen[f"{layer.name} post"]).double()
            of_norm = weights.sum(1) * float(self.norm.fold(layer.post_norm.bias.double()) @ self.row)
        units = torch.einsum("nt,ntu,u->n", read, seen[layer.name].double(), self.scores[layer.name])
        return units, read.sum(1) * self._folded(layer, layer.bias.cpu()) + of_norm
