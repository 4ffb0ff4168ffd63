"""Find a model's MLP layers and how its head reads them, and prove both by a run on noise.

    anatomy = dissect(loaded.model, (224, 224))
    anatomy.layers[7].value_vectors          # [neuron, d]
    anatomy.readout.kind                     # 'token', 'mean', 'mean of normed' or 'none: why'

Nothing is taken on trust from a module's name: a probe run compares what the model does with what is claimed here,
and refuses, by name, a layer that behaves otherwise. Imports torch: only code that runs a model imports this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...schemas.errors import ModelError
from .anatomy import Anatomy, MlpLayer, Norm, Readout
from .families import FC1, first_head, gain_of

_TOLERANCE = 1e-3  # of the largest value: float32 through one block


def dissect(model: nn.Module, input_size: tuple[int, int]) -> Anatomy:
    """Find the MLP layers of a model in eval mode on the CPU, and prove by a probe run that they are what they seem.

    Raises ModelError naming the first layer that does not fit.
    """
    candidates = list(_candidates(model))
    with torch.inference_mode():
        probe = _probe(model, candidates, input_size)
        grid, prefix = _tokens(model, probe, candidates)
        layers = tuple(_layer(model, name, block, probe) for name, block in candidates)
        readout = _readout(model, probe, prefix)
    cls = prefix > 0 and getattr(model, "cls_token", None) is not None
    head = first_head(model)
    return Anatomy(model, layers, prefix, cls, grid, head, readout, probe.features.shape[-1])


def _candidates(model: nn.Module) -> Iterator[tuple[str, int]]:
    found = False
    for name, _ in model.named_modules():
        if match := FC1.match(name):
            found = True
            yield name, int(match[1])
    if found:
        return
    other = next((n for n, _ in model.named_modules() if n.endswith((".fc1", ".fc1_g", ".w1", ".w12"))), None)
    fact = f"{type(model).__name__} has no plain 'blocks.N.mlp.fc1'"
    if other:
        fact += f" (its first MLP is '{other}': gated, hierarchical or of another kind)"
    raise ModelError(fact, "vitdex reads ViTs whose blocks hold mlp.fc1 and mlp.fc2.")


@dataclass
class _Probe:
    fc1: dict[str, Tensor]
    fc2_in: dict[str, Tensor]
    fc2_out: dict[str, Tensor]
    blocks: dict[int, tuple[tuple[Any, ...], dict[str, Any], Tensor]]
    features: Tensor
    output: Tensor


def _probe(model: nn.Module, candidates: list[tuple[str, int]], input_size: tuple[int, int]) -> _Probe:
    """Run one noise image and keep what went through every candidate MLP, block and head."""
    probe = _Probe({}, {}, {}, {}, torch.empty(0), torch.empty(0))
    hooks = []

    def on_fc1(name: str) -> Any:
        return lambda m, args, out: probe.fc1.__setitem__(name, out.clone())

    def on_fc2(name: str) -> Any:
        def keep(m: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            probe.fc2_in[name], probe.fc2_out[name] = args[0].clone(), out.clone()

        return keep

    def on_block(block: int) -> Any:
        def keep(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
            probe.blocks[block] = (args, kwargs, out)

        return keep

    def on_head(m: nn.Module, args: tuple[Tensor, ...]) -> None:
        probe.features = args[0].clone()

    for name, _ in candidates:
        mlp = model.get_submodule(name.removesuffix(".fc1"))
        if not isinstance(getattr(mlp, "fc1", None), nn.Linear) or not isinstance(getattr(mlp, "fc2", None), nn.Linear):
            raise ModelError(f"'{name}' is not a plain linear layer", "vitdex reads MLPs of two linear layers.")
        hooks += [mlp.fc1.register_forward_hook(on_fc1(name)), mlp.fc2.register_forward_hook(on_fc2(name))]  # type: ignore[union-attr]
    for block in {block for _, block in candidates}:
        hooks.append(model.get_submodule(f"blocks.{block}").register_forward_hook(on_block(block), with_kwargs=True))
    hooks.append(first_head(model).register_forward_pre_hook(on_head))
    noise = torch.randn(1, 3, *input_size, generator=torch.Generator().manual_seed(0))
    try:
        probe.output = model(noise)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ModelError(
            f"a probe image of {input_size[0]}x{input_size[1]} does not run through the model: {error}",
            "See --img-size.",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return probe


def _tokens(model: nn.Module, probe: _Probe, candidates: list[tuple[str, int]]) -> tuple[tuple[int, int], int]:
    """Patch grid and number of prefix tokens; every layer must show them, and the same width."""
    found = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise ModelError(f"{type(model).__name__} has no patch grid", "vitdex reads ViTs with a patch embedding.")
    grid = (int(found[0]), int(found[1]))
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    first = probe.fc1[candidates[0][0]].shape
    if first[1:2] == (grid[0] * grid[1],):
        prefix = 0  # a class token that joins only after these blocks
    expected = (1, prefix + grid[0] * grid[1], first[-1])
    for name, _ in candidates:
        shape = tuple(probe.fc1[name].shape)
        if shape != expected:
            raise ModelError(
                f"'{name}' gives {list(shape)}, not [image, {expected[1]} tokens, {expected[2]} units]",
                "vitdex reads ViTs whose blocks all have the same tokens and width.",
            )
    if expected[1] > 65535 or expected[2] > 65535:
        raise ModelError(f"'{candidates[0][0]}' has more than 65,535 tokens or units", "Choose a smaller --img-size.")
    return grid, prefix


def _layer(model: nn.Module, name: str, block: int, probe: _Probe) -> MlpLayer:
    mlp: Any = model.get_submodule(name.removesuffix(".fc1"))
    parent = model.get_submodule(name.removesuffix(".mlp.fc1"))
    activated = mlp.act(probe.fc1[name].clone())
    if activated.shape != probe.fc2_in[name].shape:
        raise ModelError(
            f"'{name}' has {activated.shape[-1]} units but its fc2 reads {probe.fc2_in[name].shape[-1]}",
            "Gated MLPs (SwiGLU and its like) have no key-value neurons.",
        )
    if not close(activated, probe.fc2_in[name]):
        raise ModelError(
            f"something stands between '{name}', its nonlinearity and fc2 (a norm, a gate)",
            "The key-value picture does not hold for such an MLP.",
        )
    gain = gain_of(parent, mlp.fc2.out_features)
    norm_module = getattr(parent, "norm2", None)
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
        if close(change, expected):
            kept = norm_module if post_norm else None
            return MlpLayer(name, block, mlp.fc1, mlp.act, mlp.fc2, gain, post_norm, kept)
    raise ModelError(
        f"what '{name}' writes does not reach the stream by a known gain or norm",
        "Its value vectors cannot be read off the weights.",
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
        if close(module(probe), norm(probe)):
            return norm
    return None


def _readout(model: nn.Module, probe: _Probe, prefix: int) -> Readout:
    """Find by trial how what the head reads comes out of the last block."""
    stream = probe.blocks[max(probe.blocks)][2]
    features = probe.features
    if features.ndim != 2:
        return Readout("none: the head reads all tokens", None, None)
    before, after = getattr(model, "norm", None), getattr(model, "fc_norm", None)
    for module in (before, after):
        norm = _norm(module)
        if norm is None:
            continue
        trials: dict[str, Callable[[Norm], Tensor]] = {
            "token": lambda n: n(stream[:, 0]),
            "mean": lambda n: n(stream[:, prefix:].mean(1)),
            "mean of normed": lambda n: n(stream)[:, prefix:].mean(1),
        }
        for kind, read in trials.items():
            if close(read(norm), features):
                return Readout(kind, norm, module)
    pooled = "attention pooling" if getattr(model, "attn_pool", None) is not None else "an unknown pooling"
    return Readout(f"none: the head reads through {pooled}", None, None)


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= _TOLERANCE * b.abs().max().clamp(min=1e-12))
