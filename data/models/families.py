"""Under which names timm's families keep the parts of a block. The probe run proves what is found here."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

FC1 = re.compile(r"^blocks\.(\d+)\.(?:mlp|ffns\.\d+\.mlp)\.fc1$")
GAINS = ("ls2", "ls", "gamma_2", "gamma2")  # LayerScale under the names that timm's families give it


def gain_of(parent: nn.Module, width: int) -> Tensor:
    for name in GAINS:
        found = getattr(parent, name, None)
        found = getattr(found, "gamma", found)
        if isinstance(found, Tensor):
            return found.detach().float()
    return torch.ones(width)


def first_head(model: nn.Module) -> nn.Module:
    """The classifier; the first of two in distilled models. Identity where the model has none."""
    getter: Any = getattr(model, "get_classifier", nn.Identity)
    head: Any = getter()
    if isinstance(head, tuple | list | nn.ModuleList):
        head = head[0]
    return head if isinstance(head, nn.Module) else nn.Identity()
