"""Effects of all units at once: attribution patching, a forward and a backward pass. Imports torch: it runs a model.

    attribution = AttributionPatching(live, layers, replacements)
    found = attribution(live.pixels([17]), class_ids)      # found.effects["blocks.7.mlp.fc1/effect"]  [image, unit]

The effect of a unit on an image is what L, the class's logit minus the mean of all logits, loses when h, the unit's
value as the last linear layer reads it, is replaced by h' on every token. Its estimate is the sum over the tokens of
(h - h') dL/dh (Nanda 2023; Kramár et al. 2024, arXiv 2403.00745).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ...data.models.anatomy import Norm, UnitLayer
from ...data.models.device import DTYPES
from ...schemas.effects import PLACES
from ...schemas.run_spec import Precision
from .edits import changed
from .live_model import LiveModel


@dataclass(frozen=True)
class Attributed:
    """float32 `effects` [image, unit] by LAYER/leaf of schemas/effects.py, and L, the `logit` [image] as it is."""

    effects: dict[str, Tensor]
    logit: Tensor


@dataclass
class _Pass:
    """What one pass keeps until the gradients arrive."""

    contrast: Tensor  # of each image, the class's row of the head minus the mean row: [image, d]
    weights: Tensor | None  # of the tokens in subject, background and prefix: [image, 3, token]
    held: dict[str, Tensor] = field(default_factory=dict)  # h by layer
    before_post_norm: dict[str, Tensor] = field(default_factory=dict)  # what a norm after the layer reads
    before_norm: Tensor | None = None  # what the final norm reads
    gradient: Tensor | None = None  # dL / d that
    effects: dict[str, Tensor] = field(default_factory=dict)


class AttributionPatching:
    """Effects of the units of some layers. `replacements`: h' by layer, [prefix token and then patch, unit]."""

    def __init__(
        self,
        live: LiveModel,
        layers: Sequence[str],
        replacements: Mapping[str, Tensor],
        precision: Precision = "float32",
    ) -> None:
        self.live, self.precision = live, precision
        self.layers = {name: live.layer(name) for name in layers}
        self.replacements = {name: replacements[name].to(live.device) for name in layers}
        head = torch.tensor(live.index.reader.whole("head"), device=live.device)
        self.contrasts = head - head.mean(0)

    def __call__(self, pixels: Tensor, class_ids: Tensor, cover: Tensor | None = None) -> Attributed:
        """Of images, with a class each; cover: the object's share of every patch [image, patch], for its parts."""
        weights = None if cover is None else _weights(cover, self.live.spec.prefix)
        now = _Pass(self.contrasts[class_ids], weights)
        with ExitStack() as hooks:
            self._watch(now, hooks)
            with torch.autocast(self.live.device.type, DTYPES[self.precision], enabled=self.precision != "float32"):
                logits = self.live(pixels, [])[0].float()
            logit = logits[torch.arange(len(logits), device=logits.device), class_ids] - logits.mean(1)
            logit.sum().backward()  # type: ignore[no-untyped-call]
        return Attributed(now.effects, logit.detach())

    def _watch(self, now: _Pass, hooks: ExitStack) -> None:
        readout = self.live.anatomy.readout
        for name, layer in self.layers.items():
            hooks.enter_context(changed(layer.out, partial(self._tap, now, name), "input"))
            if layer.post_norm_module is not None:
                keep = partial(now.before_post_norm.__setitem__, name)
                hooks.enter_context(changed(layer.post_norm_module, keep, "input"))
        if readout.defined and readout.norm_module is not None:
            hooks.enter_context(changed(readout.norm_module, partial(self._at_norm, now), "input"))

    def _tap(self, now: _Pass, name: str, h: Tensor) -> Tensor:
        """Hold h until its gradient arrives. Where nothing before it needs a gradient, the graph begins with it."""
        if not h.requires_grad:
            h = h.detach().requires_grad_()
        now.held[name] = h.detach()
        h.register_hook(partial(self._arrived, now, name))  # type: ignore[no-untyped-call]
        return h

    @torch.no_grad()
    def _at_norm(self, now: _Pass, x: Tensor) -> None:
        now.before_norm = self._head_tokens(x.detach())
        x.register_hook(lambda g: setattr(now, "gradient", self._head_tokens(g)))  # type: ignore[no-untyped-call]

    def _head_tokens(self, x: Tensor) -> Tensor:
        """Of [image, token, d], or pooled [image, d], what the head reads: float32 [image, token or 1, d]."""
        if x.ndim == 2:
            return x[:, None].float()
        spec = self.live.spec
        return (x[:, :1] if spec.readout == "token" else x[:, spec.prefix :]).float()

    @torch.no_grad()
    def _arrived(self, now: _Pass, name: str, gradient: Tensor) -> None:
        """Make a layer's effects of h and dL/dh [image, token, unit]."""
        prefix, instead = self.live.spec.prefix, self.replacements[name]
        delta = now.held.pop(name).to(torch.float32, copy=True)
        delta[:, :prefix] -= instead[:prefix]
        delta[:, prefix:] -= instead[prefix]
        if now.before_norm is not None:
            now.effects[f"{name}/through_norm"] = self._through_norm(now, name, self.layers[name], delta)
        products = delta.mul_(gradient.float())
        if now.weights is None:
            now.effects[f"{name}/effect"] = products.sum(1)
            return
        parts = now.weights @ products
        now.effects[f"{name}/effect"] = parts.sum(1)
        for i, place in enumerate(PLACES):
            now.effects[f"{name}/{place}"] = parts[:, i]

    def _through_norm(self, now: _Pass, name: str, layer: UnitLayer, delta: Tensor) -> Tensor:
        """What the units do to L by the divisors of the norms behind them alone, on the way that no later block reads.

        The gradient along that way, less the one with all divisors held fixed, which is the contribution's.
        """
        norm = self.live.anatomy.readout.norm
        assert norm is not None
        assert now.before_norm is not None
        assert now.gradient is not None
        sigma = norm.sigma(now.before_norm)[..., None]
        tokens = now.before_norm.shape[1]
        whole, fixed = now.gradient, _adjoint(norm, now.contrast)[:, None] / (sigma * tokens)
        read = self._head_tokens(delta)
        if layer.post_norm is None:
            whole, fixed = whole * layer.gain, fixed * layer.gain
            if self.live.spec.readout == "mean":
                read = read.mean(1, keepdim=True)
        else:
            seen = self._head_tokens(now.before_post_norm.pop(name))
            share = 1 / seen.shape[1] if self.live.spec.readout == "mean" else 1.0
            whole, fixed = (g.expand_as(seen) * share for g in (whole, fixed))
            fixed = _adjoint(layer.post_norm, fixed) / layer.post_norm.sigma(seen)[..., None]
            whole = _pulled_back(layer, seen, whole)
        return ((whole - fixed) @ layer.out.weight.float() * read).sum(1)


def _adjoint(norm: Norm, vectors: Tensor) -> Tensor:
    """Of vectors [..., d] that read what a norm writes: what reads the same of its input, up to sigma."""
    vectors = vectors * norm.weight
    return vectors - vectors.mean(-1, keepdim=True) if norm.centred else vectors


def _pulled_back(layer: UnitLayer, seen: Tensor, gradient: Tensor) -> Tensor:
    """A gradient at the output of the norm after a layer, as one at its input `seen`."""
    assert layer.post_norm_module is not None
    with torch.enable_grad():
        leaf = seen.detach().requires_grad_()
        written = layer.post_norm_module(leaf)
    found: Tensor = torch.autograd.grad(written, leaf, gradient)[0]
    return found


def _weights(cover: Tensor, prefix: int) -> Tensor:
    """How much of every token is subject, background and prefix: [image, 3, token]."""
    images, patches = cover.shape
    weights = cover.new_zeros(images, 3, prefix + patches)
    weights[:, 0, prefix:], weights[:, 1, prefix:], weights[:, 2, :prefix] = cover, 1 - cover, 1
    return weights
