"""Find a model's MLP layers and how its head reads them, and prove both by a run on noise.

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
from .anatomy import Anatomy, MlpLayer, Norm, Readout
from .families import (
    Mlp,
    final_norms,
    first_head,
    gain_of,
    has_class_token,
    layer_name,
    mlp_names,
    mlp_of,
    norm_beside_mlp,
    parent_of,
    patch_grid,
    pools_by_attention,
    prefix_tokens,
)

_TOLERANCE = 1e-3  # of the largest value: float32 through one block


def dissect(model: nn.Module, input_size: tuple[int, int]) -> Anatomy:
    """Find the MLP layers of a model in eval mode on the CPU, and prove by a probe run that they are what they seem.

    Raises ModelError naming the first layer that does not fit.
    """
    names = mlp_names(model)
    with torch.inference_mode():
        probe = _probe(model, names, input_size)
        grid, prefix = _tokens(model, probe, names)
        layers = tuple(_layer(model, name, block, probe) for name, block in names)
        readout = _readout(model, probe, prefix)
    cls = prefix > 0 and has_class_token(model)
    return Anatomy(model, layers, prefix, cls, grid, first_head(model), readout, probe.features.shape[-1])


@dataclass
class _Probe:
    """What went through the model: outputs and inputs of an MLP's parts by its first layer's name; blocks by number."""

    fc1: dict[str, Tensor] = field(default_factory=dict)
    up: dict[str, Tensor] = field(default_factory=dict)
    product: dict[str, Tensor] = field(default_factory=dict)
    fc2_in: dict[str, Tensor] = field(default_factory=dict)
    fc2_out: dict[str, Tensor] = field(default_factory=dict)
    blocks: dict[int, tuple[tuple[Any, ...], dict[str, Any], Tensor]] = field(default_factory=dict)  # arguments, output
    features: Tensor = field(default_factory=lambda: torch.empty(0))  # what the head reads

    @staticmethod
    def on_output(kept: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda m, args, out: kept.__setitem__(name, out.clone())

    def on_fc2(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(m: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            self.fc2_in[name], self.fc2_out[name] = args[0].clone(), out.clone()

        return keep

    def on_block(self, block: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Tensor], None]:
        return lambda m, args, kwargs, out: self.blocks.__setitem__(block, (args, kwargs, out))

    def on_head(self, m: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.features = args[0].clone()


def _probe(model: nn.Module, names: list[tuple[str, int]], input_size: tuple[int, int]) -> _Probe:
    """Run one noise image and keep what went through every MLP, block and head."""
    probe, hooks = _Probe(), []
    for name, _ in names:
        mlp = mlp_of(model, name)
        for module, kept in ((mlp.fc1, probe.fc1), (mlp.up, probe.up), (mlp.product, probe.product)):
            if module is not None:
                hooks.append(module.register_forward_hook(probe.on_output(kept, name)))
        hooks.append(mlp.fc2.register_forward_hook(probe.on_fc2(name)))
    for block in {block for _, block in names}:
        module = model.get_submodule(f"blocks.{block}")
        hooks.append(module.register_forward_hook(probe.on_block(block), with_kwargs=True))
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
    grid, prefix = patch_grid(model), prefix_tokens(model)
    first = probe.fc2_in[names[0][0]].shape
    if first[1:2] == (grid[0] * grid[1],):
        prefix = 0  # a class token that joins only after these blocks
    expected = (1, prefix + grid[0] * grid[1], first[-1])
    for name, _ in names:
        shape = tuple(probe.fc2_in[name].shape)
        if shape != expected:
            raise ModelError(
                f"'{name}' gives {list(shape)}, not [image, {expected[1]} tokens, {expected[2]} units]",
                "vitdex reads ViTs whose blocks all have the same tokens and width.",
            )
    if expected[1] > 65535 or expected[2] > 65535:
        raise ModelError(f"'{names[0][0]}' has more than 65,535 tokens or units", "Choose a smaller --img-size.")
    return grid, prefix


def _layer(model: nn.Module, name: str, block: int, probe: _Probe) -> MlpLayer:
    """A layer's record, once a shift of fc2's output has reached the stream as the record says."""
    mlp, parent = mlp_of(model, name), parent_of(model, name)
    _prove_units(name, mlp, probe)
    gain = gain_of(parent, mlp.fc2.out_features)
    norm_module = norm_beside_mlp(parent)
    norm = _norm(norm_module) if norm_module is not None else None
    module = model.get_submodule(f"blocks.{block}")
    args, kwargs, before = probe.blocks[block]
    out = probe.fc2_out[name]
    for post_norm in (None, norm) if norm else (None,):
        noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        shift = noise * out.std() if post_norm else noise / gain.abs().max().clamp(min=1e-12)
        with _shifted(mlp.fc2, shift):
            change = module(*args, **kwargs) - before
        expected = post_norm(out + shift) - post_norm(out) if post_norm else gain * shift
        if _close(change, expected):
            after = norm_module if post_norm else None
            gated = mlp.product is not None
            keys, act = (mlp.product, nn.Identity()) if mlp.product is not None else (mlp.fc1, mlp.act)
            return MlpLayer(layer_name(name, mlp), block, keys, act, mlp.fc2, gain, post_norm, after, gated)
    raise ModelError(
        f"what '{name}' writes does not reach the stream by a known gain or norm",
        "Its value vectors cannot be read off the weights.",
    )


def _prove_units(name: str, mlp: Mlp, probe: _Probe) -> None:
    """Raise ModelError where fc2 does not read act(fc1), or act(gate) * up in a gated MLP, normed if it has a norm."""
    read = probe.fc2_in[name]
    if mlp.product is None:
        if not _close(mlp.act(probe.fc1[name].clone()), read):
            raise ModelError(
                f"something stands between '{name}', its nonlinearity and fc2 (a norm, a gate)",
                "The key-value picture does not hold for such an MLP.",
            )
        return
    pair = (probe.fc1[name], probe.up[name]) if mlp.up is not None else probe.fc1[name].chunk(2, dim=-1)
    either = (pair, pair[::-1]) if mlp.up is None else (pair,)  # GLU gates with its second half, SwiGLU with its first
    products = [mlp.product(mlp.act(gate.clone()) * up) for gate, up in either]
    if name not in probe.product or not any(_close(product, read) for product in products):
        raise ModelError(
            f"what fc2 reads after '{name}' is not act(gate) * up", "vitdex reads gated MLPs of GluMlp and SwiGLU."
        )


class _shifted:
    """Add a shift to a module's output while inside the `with`."""

    def __init__(self, module: nn.Module, shift: Tensor) -> None:
        self.module, self.shift = module, shift

    def __enter__(self) -> None:
        self.hook = self.module.register_forward_hook(lambda m, args, out: out + self.shift)

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def _norm(module: nn.Module | None) -> Norm | None:
    """The arithmetic of a norm module, or None where it is of an unknown kind."""
    weight = getattr(module, "weight", None)
    if module is None or isinstance(module, nn.Identity):
        return Norm(False, torch.ones(1), torch.zeros(1), 0.0, scales=False)
    if not isinstance(weight, Tensor):
        return None
    bias = getattr(module, "bias", None)
    bias = bias.detach().float() if isinstance(bias, Tensor) else torch.zeros_like(weight, dtype=torch.float32)
    eps = float(getattr(module, "eps", 1e-6) or 1e-6)
    probe = torch.randn(2, 3, weight.shape[0], generator=torch.Generator().manual_seed(2)) + 0.5
    for centred in (True, False):
        norm = Norm(centred, weight.detach().float(), bias, eps)
        if _close(module(probe), norm(probe)):
            return norm
    return None


def _readout(model: nn.Module, probe: _Probe, prefix: int) -> Readout:
    """Find by trial how what the head reads comes out of the last block."""
    stream = probe.blocks[max(probe.blocks)][2]
    features = probe.features
    if features.ndim != 2:
        return Readout("none: the head reads all tokens", None, None)
    for module in final_norms(model):
        norm = _norm(module)
        if norm is None:
            continue
        trials: dict[str, Callable[[Norm], Tensor]] = {
            "token": lambda n: n(stream[:, 0]),
            "mean": lambda n: n(stream[:, prefix:].mean(1)),
            "mean of normed": lambda n: n(stream)[:, prefix:].mean(1),
        }
        for kind, read in trials.items():
            if _close(read(norm), features):
                return Readout(kind, norm, module)
    pooled = "attention pooling" if pools_by_attention(model) else "an unknown pooling"
    return Readout(f"none: the head reads through {pooled}", None, None)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= _TOLERANCE * b.abs().max().clamp(min=1e-12))
