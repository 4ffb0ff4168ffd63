"""Where timm's families keep the parts of a ViT: the names alone. What is found by them is proved by a run in probe.py.

A new family is a new name here. Imports torch: only code that runs a model imports this module.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...schemas.errors import ModelError

# An MLP's first linear layer: fc1, which may hold gate and values in one, or the gate beside fc1_x.
FIRST = re.compile(r"^blocks\.(\d+)\.(?:mlp|ffns\.\d+\.mlp)\.(?:fc1|fc1_g)$")
OTHER_MLPS = (".fc1", ".w1", ".w12")  # hierarchical or of another kind
# The last linear layer of attention: of a block, or of its parallel branches.
LAST_OF_ATTENTION = re.compile(r"^blocks\.(\d+)\.(?:attn|attns\.\d+\.attn)\.proj$")
GAINS = ("ls2", "ls", "gamma_2", "gamma2")  # LayerScale after an MLP
ATTENTION_GAINS = ("ls1", "ls", "gamma_1", "gamma1")  # and after attention


class Mlp(NamedTuple):
    """The linear layers of an MLP and the nonlinearity between them.

    A gated one has a `product`: the module before fc2 (a norm or Identity) whose output fc2 reads. Its `up` is the
    layer that the gate multiplies; without it fc1 holds both halves.
    """

    fc1: nn.Linear
    act: nn.Module
    fc2: nn.Linear
    up: nn.Linear | None = None
    product: nn.Module | None = None


def mlp_names(model: nn.Module) -> list[tuple[str, int]]:
    """(first linear layer, block) of every MLP. Raises ModelError, naming the first MLP, where none is known."""
    matches = [match for name, _ in model.named_modules() if (match := FIRST.match(name))]
    if matches:
        return [(match[0], int(match[1])) for match in matches]
    other = next((name for name, _ in model.named_modules() if name.endswith(OTHER_MLPS)), None)
    fact = f"{type(model).__name__} has no plain 'blocks.N.mlp.fc1'"
    if other:
        fact += f" (its first MLP is '{other}': hierarchical or of another kind)"
    raise ModelError(fact, "vitdex reads ViTs whose blocks hold mlp.fc1 and mlp.fc2, gated or not.")


def mlp_of(model: nn.Module, name: str) -> Mlp:
    """The MLP of a first linear layer. Raises ModelError where it is of other parts."""
    module, fc1 = model.get_submodule(name.rpartition(".")[0]), model.get_submodule(name)
    act, fc2, up, product = (getattr(module, part, None) for part in ("act", "fc2", "fc1_x", "norm"))
    if not isinstance(fc1, nn.Linear) or not isinstance(fc2, nn.Linear):
        raise ModelError(f"'{name}' is not a plain linear layer", "vitdex reads MLPs of two linear layers.")
    if not isinstance(act, nn.Module):
        raise ModelError(f"after '{name}' there is no module 'act'", "vitdex reads MLPs of fc1, act and fc2.")
    split = name.endswith("fc1_g")
    if not split and fc1.out_features != 2 * fc2.in_features:
        return Mlp(fc1, act, fc2)
    if not isinstance(product, nn.Module) or (split and not isinstance(up, nn.Linear)):
        raise ModelError(f"'{name}' gates in an unknown way", "vitdex reads gated MLPs of timm's GluMlp and SwiGLU.")
    return Mlp(fc1, act, fc2, up if split else None, product)


def layer_name(name: str, mlp: Mlp) -> str:
    """What the layer of an MLP's units is called: its fc1, or, where that holds no unit's value, fc2's input."""
    return name if mlp.product is None else f"{name.rpartition('.')[0]}.fc2.input"


def attention_names(model: nn.Module) -> list[tuple[str, int]]:
    """(last linear layer, block) of every attention that keeps it under a known name."""
    matches = [match for name, _ in model.named_modules() if (match := LAST_OF_ATTENTION.match(name))]
    return [(match[0], int(match[1])) for match in matches]


def parent_of(model: nn.Module, name: str) -> nn.Module:
    """What stands around an MLP or attention: the block, or one of its branches (parallel blocks)."""
    return model.get_submodule(re.split(r"\.(?:mlp|attn)\.", name)[0])


def gain_of(parent: nn.Module, width: int, names: tuple[str, ...] = GAINS) -> Tensor:
    """LayerScale's gamma after an MLP, or under other names after attention: float32 [d]; ones where there is none."""
    for name in names:
        scale = getattr(parent, name, None)
        gamma = getattr(scale, "gamma", scale)  # a module's, or the parameter itself
        if isinstance(gamma, Tensor):
            return gamma.detach().float()
    return torch.ones(width)


def norm_beside_mlp(parent: nn.Module) -> nn.Module | None:
    """A block's second norm: it stands before the MLP, in post-norm blocks after it."""
    return getattr(parent, "norm2", None)


def norm_beside_attention(parent: nn.Module) -> nn.Module | None:
    """A block's first norm: it stands before attention, in post-norm blocks after it."""
    return getattr(parent, "norm1", None)


def final_norms(model: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """The norm before the pooling and the one after it; of most models one is an Identity or missing."""
    return getattr(model, "norm", None), getattr(model, "fc_norm", None)


def pools_by_attention(model: nn.Module) -> bool:
    return getattr(model, "attn_pool", None) is not None


def patch_grid(model: nn.Module) -> tuple[int, int]:
    """Rows and columns of patches. Raises ModelError where the model has none."""
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if not isinstance(grid, tuple | list) or len(grid) != 2:
        raise ModelError(f"{type(model).__name__} has no patch grid", "vitdex reads ViTs with a patch embedding.")
    return int(grid[0]), int(grid[1])


def in_channels(model: nn.Module) -> int:
    """What the first convolution reads: that of patches or, in hybrids, of the backbone before them."""
    return next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)


def prefix_tokens(model: nn.Module) -> int:
    """Tokens before the patches: CLS, registers."""
    return int(getattr(model, "num_prefix_tokens", 0))


def has_class_token(model: nn.Module) -> bool:
    return getattr(model, "cls_token", None) is not None


def first_head(model: nn.Module) -> nn.Module:
    """The classifier; the first of two in distilled models. Identity where the model has none."""
    head = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    if isinstance(head, tuple | list | nn.ModuleList):
        head = head[0]
    return head if isinstance(head, nn.Module) else nn.Identity()
