"""The classifier of the class scores: the model's own, or one that a file brings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ...schemas.errors import ModelError
from ..labels.class_names import ClassNames
from ..labels.label_files import parse_names
from .anatomy import Anatomy
from .checkpoints import check_finite, open_tensors, tensors_hash


@dataclass(frozen=True)
class Head:
    """E [class, d] and bias [class]; `own` where the logits must be computed here and not by the model.

    `names` are those that its file brings, if any.
    """

    weight: Tensor | None
    bias: Tensor | None
    own: bool
    origin: str
    sha256: str
    names: ClassNames | None

    @property
    def rows(self) -> int:
        """How many classes it has; 0 where there is no head."""
        return 0 if self.weight is None else len(self.weight)

    def logits(self, features: Tensor) -> Tensor:
        assert self.weight is not None
        weight = self.weight.to(features.device)
        logits = features @ weight.T
        return logits + self.bias.to(features.device) if self.bias is not None else logits


def find_head(anatomy: Anatomy, path: str | Path | None) -> Head:
    """The head of a run: the model's own, or a file's."""
    own = anatomy.head if isinstance(anatomy.head, nn.Linear) else None
    if path is None:
        if own is None:
            return Head(None, None, False, "none", "", None)
        return Head(*_linear(own), False, "model", "", None)
    return head_of_file(Path(path), anatomy.features, None if own is None else _linear(own))


def head_of_file(file: Path, features: int, own: tuple[Tensor, Tensor | None] | None) -> Head:
    """A file's head for a model that gives so many features, and whose own head has this weight and bias.

    Its rows are classes, in the space that the model's head reads or, for models whose head is a projection (CLIP), in
    the space that it writes. Raises ModelError where they are of neither.
    """
    weight, bias, names = read_head(file)
    digest = tensors_hash({"weight": weight, **({"bias": bias} if bias is not None else {})})
    width = weight.shape[1]
    if width == features:
        return Head(weight, bias, True, file.name, digest, names)
    if own is not None and width == len(own[0]):
        projection, shift = own
        if shift is not None:
            bias = weight @ shift if bias is None else bias + weight @ shift
        return Head(weight @ projection, bias, True, file.name, digest, names)
    raise ModelError(
        f"the head in {file.name} reads {width} features, the model gives {features}",
        "Give rows of the model's own feature width.",
    )


def _linear(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """A layer's weight and bias, in float32."""
    return layer.weight.detach().float(), layer.bias.detach().float() if layer.bias is not None else None


def read_head(file: Path) -> tuple[Tensor, Tensor | None, ClassNames | None]:
    """`weight` [class, d], optional `bias` [class], and optional metadata `classes`: a JSON list of names."""
    with open_tensors(file, "head", "Save the head with safetensors.torch.save_file.") as tensors:
        keys, metadata = set(tensors.keys()), tensors.metadata() or {}
        if "weight" not in keys:
            raise ModelError(
                f"{file.name} holds no tensor 'weight'", "A head is weight [class, d], maybe bias [class]."
            )
        weight = tensors.get_tensor("weight").float()
        bias = tensors.get_tensor("bias").float() if "bias" in keys else None
    if weight.ndim != 2 or not weight.numel() or (bias is not None and bias.shape != weight.shape[:1]):
        raise ModelError(
            f"the head in {file.name} is not a matrix of one row or more, with a bias for each",
            "A head is weight [class, d], maybe bias [class].",
        )
    check_finite(f"the head in {file.name}", {"weight": weight, **({"bias": bias} if bias is not None else {})})
    if "classes" not in metadata:
        return weight, bias, None
    return weight, bias, ClassNames(parse_names(metadata["classes"], len(weight), file), None, file.name)
