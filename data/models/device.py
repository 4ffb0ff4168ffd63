"""Where a model runs, and in which numbers: the one check of a device's name. Imports torch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ...schemas.errors import ModelError
from ...schemas.run_spec import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(asked: str | None) -> str:
    """The device asked for, else the best there is. Raises ModelError where this machine has no such device.

    On CUDA, convolutions are kept to the precision of products: torch would round what the patches are made from to
    TF32 (errors of 1e-3), though it was asked for float32.
    """
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = asked or best
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"no device '{device}' on this machine", f"Leave out --device to use {best}.") from error
    if device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    return device


def current(device: str) -> AbstractContextManager[object]:
    """Within the `with` a CUDA device is this thread's current one: Triton launches its kernels on no other."""
    return torch.cuda.device(device) if device.startswith("cuda") else nullcontext()
