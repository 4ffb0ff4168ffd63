"""The tensors of a checkpoint: in one safetensors file, in several that an index names, or in a folder of either.

    checkpoint = open_checkpoint("my-model")     # names and shapes: nothing else is read yet
    checkpoint.outline()                         # tensors without values, on the device "meta"
    checkpoint.tensors()                         # the values

Pickles are never opened. Imports torch: only code that runs a model imports this module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...schemas.errors import ModelError
from ...schemas.text_files import read_text

INDEX = ".safetensors.index.json"
# of a folder, as timm goes about it; the index stands where its shards would
PREFERRED = (
    "model.safetensors",
    f"model{INDEX}",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
)
PICKLES = ("*.bin", "*.pth", "*.pt", "*.pth.tar", "*.ckpt")
CONVERT = "Pickled checkpoints can run code: convert them with safetensors.torch.save_file."


@dataclass(frozen=True)
class Checkpoint:
    """Where the tensors lie, and the name and shape of each."""

    files: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]

    def outline(self) -> dict[str, Tensor]:
        """Tensors of these names and shapes without values."""
        return {name: torch.empty(shape, device="meta") for name, shape in self.shapes.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, on the CPU and in the types that they are stored in."""
        out: dict[str, Tensor] = {}
        for file in self.files:
            with safe_open(file, "pt") as stored:
                out |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        return out


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Find out which tensors a checkpoint holds.

    Args:
        path: a safetensors file, the `.safetensors.index.json` of several, or a folder with either.

    Returns:
        A Checkpoint.

    Raises:
        ModelError: it is not there, is a pickle or damaged, lacks a shard, or the folder does not tell which it is.

    Example:
        >>> len(open_checkpoint("my-model").shapes)
    """
    file = _in_folder(Path(path)) if Path(path).is_dir() else Path(path)
    files = tuple(file.parent / name for name in shard_names(file)) if file.name.endswith(INDEX) else (file,)
    shapes: dict[str, tuple[int, ...]] = {}
    for one in files:
        shapes |= _read_shapes(one)
    return Checkpoint(files, shapes)


def _in_folder(folder: Path) -> Path:
    """The one checkpoint of a folder."""
    for name in PREFERRED:
        if (folder / name).exists():
            return folder / name
    found = sorted([*folder.glob("*.safetensors"), *folder.glob(f"*{INDEX}")])
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"{folder} holds {listed([f.name for f in found])}", "Give one of them with --weights.")
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelError(f"{folder} holds no safetensors file but {listed(pickles)}", CONVERT)
    raise ModelError(f"no weights in {folder}", "Give a folder with model.safetensors.")


def shard_names(index: Path) -> list[str]:
    """The files that an index names, which lie beside it. Raises ModelError where it names none."""
    try:
        names = sorted(set(json.loads(read_text(index))["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError
    except FileNotFoundError as error:
        raise ModelError(f"no weights at {index}", "Give a safetensors file.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} names no files of tensors", "Give the index as save_pretrained wrote it.") from error
    return names


def _read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    with open_tensors(file, "weights", CONVERT) as tensors:
        return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118


@contextmanager
def open_tensors(file: Path, what: str, remedy: str) -> Iterator[Any]:
    """A safetensors file. Raises ModelError, with what it should hold, where it is none; a pipe is not waited for."""
    if not file.exists():
        raise ModelError(f"no {what} at {file}", "Give a safetensors file.")
    try:
        if not file.is_file():
            raise OSError
        with safe_open(file, "pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is not a safetensors file", remedy) from error


def check_finite(whose: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelError, naming the first tensors with NaN or Inf, where there are any.

    Example:
        >>> check_finite("vit_tiny_patch16_224", dict(model.named_parameters()))
    """
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        which = "some" if len(broken) < len(tensors) else "all"
        raise ModelError(
            f"{which} weights of {whose} are not finite (NaN or Inf): {listed(broken)}",
            "The training diverged or the file is damaged: give other weights.",
        )


def listed(names: Sequence[str], first: int = 3) -> str:
    """The first few of some names, quoted, and how many more there are.

    Example:
        >>> listed(["a", "b", "c", "d", "e"])
        "'a', 'b', 'c' and 2 more"
    """
    text = ", ".join(f"'{name}'" for name in names[:first])
    return f"{text} and {len(names) - first} more" if len(names) > first else text


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    """sha256 over the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
