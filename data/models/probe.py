"""Find a model's MLPs and attention and how its head reads them, and prove all of it by a run on noise.

    anatomy = dissect(load_model("vit_base_patch16_224").model, (224, 224))

Nothing is taken on trust from a module's name (families.py): the run compares what the model does with what is claimed
of it, and a layer that behaves otherwise is refused by name. Imports torch: only code that runs a model imports this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...schemas.errors import ModelError
from .anatomy import Anatomy, Readout, UnitLayer
from .families import (
    ATTENTION_GAINS,
    Mlp,
    attention_names,
    final_norms,
    first_head,
    gain_of,
    has_class_token,
    layer_name,
    mlp_names,
    mlp_of,
    norm_beside_attention,
    norm_beside_mlp,
    parent_of,
    patch_grid,
    pools_by_attention,
    prefix_tokens,
)
from .proofs import BlockRun, close, norm_of, way_to_stream


def dissect(model: nn.Module, input_size: tuple[int, int]) -> Anatomy:
    """Find the layers of a model in eval mode on the CPU, and prove by a probe run that they are what they seem.

    Raises ModelError naming the first MLP that does not fit. Attention that does not fit is left out, and
    `no_attention` says why: all but attention's own units can be had without it.
    """
    names, of_attention = mlp_names(model), attention_names(model)
    with torch.inference_mode():
        probe = _probe(model, names, of_attention, input_size)
        grid, prefix = _tokens(model, probe, names)
        layers = tuple(_layer(model, name, block, probe) for name, block in names)
        attention, why = _attention(model, names, of_attention, probe)
        readout = _readout(model, probe, prefix)
    cls, features = prefix > 0 and has_class_token(model), probe.features.shape[-1]
    return Anatomy(model, layers, attention, why, prefix, cls, grid, first_head(model), readout, features)


@dataclass
class _Probe:
    """What went through the model: what an MLP's parts wrote, by its first layer's name; what last linear layers read
    and wrote, by that name or, of attention, their own; blocks by number; whether a final norm read what is pooled."""

    fc1: dict[str, Tensor] = field(default_factory=dict)
    up: dict[str, Tensor] = field(default_factory=dict)
    product: dict[str, Tensor] = field(default_factory=dict)
    read: dict[str, Tensor] = field(default_factory=dict)
    written: dict[str, Tensor] = field(default_factory=dict)
    blocks: dict[int, BlockRun] = field(default_factory=dict)
    pooled: dict[nn.Module, bool] = field(default_factory=dict)
    features: Tensor = field(default_factory=lambda: torch.empty(0))  # what the head reads

    @staticmethod
    def on_output(kept: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda m, args, out: kept.__setitem__(name, out.clone())

    def on_last(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(m: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            self.read[name], self.written[name] = args[0].clone(), out.clone()

        return keep

    def on_block(self, block: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Tensor], None]:
        return lambda m, args, kwargs, out: self.blocks.__setitem__(block, BlockRun(m, args, kwargs, out))

    def on_final_norm(self, m: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.pooled[m] = args[0].ndim == 2

    def on_head(self, m: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.features = args[0].clone()


def _probe(
    model: nn.Module, names: list[tuple[str, int]], attention: list[tuple[str, int]], input_size: tuple[int, int]
) -> _Probe:
    """Run one noise image and keep what went through every MLP, attention, block and head."""
    probe, hooks = _Probe(), []
    for name, _ in names:
        mlp = mlp_of(model, name)
        for module, kept in ((mlp.fc1, probe.fc1), (mlp.up, probe.up), (mlp.product, probe.product)):
            if module is not None:
                hooks.append(module.register_forward_hook(probe.on_output(kept, name)))
        hooks.append(mlp.fc2.register_forward_hook(probe.on_last(name)))
    for name, _ in attention:
        hooks.append(model.get_submodule(name).register_forward_hook(probe.on_last(name)))
    for block in {block for _, block in names}:
        module = model.get_submodule(f"blocks.{block}")
        hooks.append(module.register_forward_hook(probe.on_block(block), with_kwargs=True))
    hooks.extend(norm.register_forward_pre_hook(probe.on_final_norm) for norm in final_norms(model) if norm is not None)
    hooks.append(first_head(model).register_forward_pre_hook(probe.on_head))
    noise = torch.randn(1, 3, *input_size, generator=torch.Generator().manual_seed(0))
    try:
        model(noise)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ModelError(
            f"a probe image of {input_size[0]}x{input_size[1]} does not run through the model: {error}",
            "See --img-size.",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return probe


def _tokens(model: nn.Module, probe: _Probe, names: list[tuple[str, int]]) -> tuple[tuple[int, int], int]:
    """Patch grid and number of prefix tokens; every layer must show them, and the same width."""
    first = tuple(probe.read[names[0][0]].shape)
    _prove_shapes(probe, names, first)  # before the grid: a hierarchical model may have none, which is not the reason
    grid, prefix = patch_grid(model), prefix_tokens(model)
    if first[1:2] == (grid[0] * grid[1],):
        prefix = 0  # a class token that joins only after these blocks
    expected = (1, prefix + grid[0] * grid[1], first[-1])
    _prove_shapes(probe, names, expected)
    if expected[1] > 65535 or expected[2] > 65535:
        raise ModelError(f"'{names[0][0]}' has more than 65,535 tokens or units", "Choose a smaller --img-size.")
    return grid, prefix


def _prove_shapes(probe: _Probe, names: list[tuple[str, int]], expected: tuple[int, ...]) -> None:
    """Raise ModelError at the first layer whose units have other values than [image, token.., unit] of these sizes."""
    for name, _ in names:
        shape = tuple(probe.read[name].shape)
        if shape != expected:
            tokens = " x ".join(str(size) for size in expected[1:-1])
            raise ModelError(
                f"'{name}' gives {list(shape)}, not [image, {tokens} tokens, {expected[-1]} units]",
                "vitdex reads ViTs whose blocks all have the same tokens and width.",
            )


def _layer(model: nn.Module, name: str, block: int, probe: _Probe) -> UnitLayer:
    """A layer's record, once a shift of fc2's output has reached the stream as the record says."""
    mlp, parent = mlp_of(model, name), parent_of(model, name)
    _prove_units(name, mlp, probe)
    gain = gain_of(parent, mlp.fc2.out_features)
    module = norm_beside_mlp(parent)
    norm = norm_of(module) if module is not None else None
    way = way_to_stream(probe.blocks[block], mlp.fc2, probe.written[name], gain, norm)
    if way is None:
        raise ModelError(
            f"what '{name}' writes does not reach the stream by a known gain or norm",
            "Its value vectors cannot be read off the weights.",
        )
    after = (norm, module) if way == "norm" else (None, None)
    if mlp.product is not None:
        return UnitLayer(layer_name(name, mlp), block, "gated", None, nn.Identity(), mlp.fc2, gain, *after)
    return UnitLayer(name, block, "hidden", mlp.fc1, mlp.act, mlp.fc2, gain, *after)


def _attention(
    model: nn.Module, names: list[tuple[str, int]], attention: list[tuple[str, int]], probe: _Probe
) -> tuple[tuple[UnitLayer, ...], str]:
    """Records of attention's last linear layers, or none and why: proved as those of MLPs, with the MLPs held still."""
    missing = sorted({block for _, block in names} - {block for _, block in attention})
    if missing:
        return (), f"blocks.{missing[0]} has no 'attn.proj'"
    tokens, layers = probe.read[names[0][0]].shape[:2], []
    for name, block in attention:
        linear, parent = model.get_submodule(name), parent_of(model, name)
        if block not in probe.blocks or name not in probe.read or not isinstance(linear, nn.Linear):
            return (), f"'{name}' is not a plain linear layer of a block with an MLP"
        read, out = probe.read[name], probe.written[name]
        if read.shape[:-1] != tokens or not close(nn.functional.linear(read, linear.weight, linear.bias), out):
            return (), f"'{name}' is not a linear layer that reads every token"
        gain = gain_of(parent, linear.out_features, ATTENTION_GAINS)
        module = norm_beside_attention(parent)
        norm = norm_of(module) if module is not None else None
        still: dict[nn.Module, Tensor] = {
            mlp_of(model, mlp).fc2: probe.written[mlp] for mlp, beside in names if beside == block
        }
        way = way_to_stream(probe.blocks[block], linear, out, gain, norm, still)
        if way is None:
            return (), f"what '{name}' writes does not reach the stream by a known gain or norm"
        after = (norm, module) if way == "norm" else (None, None)
        layers.append(UnitLayer(f"{name}.input", block, "attention", None, nn.Identity(), linear, gain, *after))
    if len({layer.units for layer in layers}) > 1:
        return (), "its blocks differ in the width of what 'attn.proj' reads"
    return tuple(layers), ""


def _prove_units(name: str, mlp: Mlp, probe: _Probe) -> None:
    """Raise ModelError where fc2 does not read act(fc1), or act(gate) * up in a gated MLP, normed if it has a norm."""
    read = probe.read[name]
    if mlp.product is None:
        if not close(mlp.act(probe.fc1[name].clone()), read):
            raise ModelError(
                f"something stands between '{name}', its nonlinearity and fc2 (a norm, a gate)",
                "The key-value picture does not hold for such an MLP.",
            )
        return
    pair = (probe.fc1[name], probe.up[name]) if mlp.up is not None else probe.fc1[name].chunk(2, dim=-1)
    either = (pair, pair[::-1]) if mlp.up is None else (pair,)  # GLU gates with its second half, SwiGLU with its first
    products = [mlp.product(mlp.act(gate.clone()) * up) for gate, up in either]
    if name not in probe.product or not any(close(product, read) for product in products):
        raise ModelError(
            f"what fc2 reads after '{name}' is not act(gate) * up", "vitdex reads gated MLPs of GluMlp and SwiGLU."
        )


def _readout(model: nn.Module, probe: _Probe, prefix: int) -> Readout:
    """Find by trial how what the head reads comes out of the last block.

    Without any norm the mean of all and all of the mean are the same numbers, so where a norm stands is not tried but
    seen. That after the pooling comes first: with it a layer is kept as one vector, not patch by patch.
    """
    stream = probe.blocks[max(probe.blocks)].output
    features = probe.features
    if features.ndim != 2:
        return Readout("none: the head reads all tokens", None, None)
    for module, pooled in sorted(probe.pooled.items(), key=lambda item: not item[1]):
        norm = norm_of(module)
        if norm is None:
            continue
        mean = norm(stream[:, prefix:].mean(1)) if pooled else norm(stream)[:, prefix:].mean(1)
        for kind, read in (("token", norm(stream[:, 0])), ("mean" if pooled else "mean of normed", mean)):
            if close(read, features):
                return Readout(kind, norm, module)
    pooling = "attention pooling" if pools_by_attention(model) else "an unknown pooling"
    return Readout(f"none: the head reads through {pooling}", None, None)
