"""What a run asks of the process that it lives in, and of its memory."""

from __future__ import annotations

import ctypes
import shutil
import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from ..schemas.storage.atomic_files import page_aligned

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT_BYTES = 2**31 - 1
LARGEST_BYTES = 2**30
SHARED = Path("/dev/shm")  # of Linux
SHARED_SHARE = 0.8  # of what is free there
BATCHES_HELD = 3  # by each process: two that wait (torch's prefetch_factor) and one that is read


def fitting_decoders(asked: int, batch_bytes: int) -> int:
    """How many decoding processes have room for their batches in shared memory: as many as asked for, or fewer.

    They hand batches over in /dev/shm, which is 64 MB in a container unless somebody asked for more; a process that
    finds it full is killed, and the run with it.
    """
    if not asked or not SHARED.is_dir():
        return asked
    room = shutil.disk_usage(SHARED).free
    return min(asked, int(room * SHARED_SHARE) // (BATCHES_HELD * batch_bytes))


def keep_freed_memory() -> None:
    """Let the C library hold freed tensors for the next ones (glibc; nothing elsewhere).

    It would hand each back to the system, and the forward pass would wait for fresh pages: up to 13% of its time.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_freed_memory_back() -> None:
    """Once: what is free now goes to the system, holes among what is used too (glibc; nothing elsewhere)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def large_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros outside the heap. NumPy would ask for huge pages, which a virtual machine may be slow to give."""
    size = prod(shape) * np.dtype(dtype).itemsize
    return page_aligned(max(size, 1))[:size].view(dtype).reshape(shape)


def as_stored(x: Tensor) -> NDArray[Any]:
    """Values on the CPU as the kernels read them: float32, or the bits of bfloat16 as uint16."""
    x = x.contiguous()
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy()
    return x.float().numpy()
