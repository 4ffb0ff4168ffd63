"""A cheaper forward pass: what a layer makes of its weights in every batch is made once a run.

    with prepared(model, spec):
        model(x)                        # hooks stay where they are

On the CPU the weights of linear layers are laid out as its matrix products read them, which torch does anew for every
product (float32: the same products, 20 to 30% quicker, other orders of their sums in the last bits). In bfloat16 and
float16 they are rounded once; and on CUDA the norms of timm's blocks round what they give out, which the linear layers
after them would do. Tried and left: attention in bfloat16 on the CPU as two products with a softmax between them is 6%
of a pass quicker than torch's fused one, and adds 10 to 45% to the error, for it rounds the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from timm.layers import Attention, LayerNorm, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import linear

from ...data.models.device import DTYPES
from ...schemas.run_spec import Forward, Precision, RunSpec
from ..memory import give_freed_memory_back

Product = Callable[[Tensor], Tensor]


@contextmanager
def prepared(model: nn.Module, spec: RunSpec) -> Iterator[None]:
    """Within the `with` the model computes as `spec.forward` says; after it, as it did before."""
    with ExitStack() as undo:
        if spec.forward == "prepared":
            device, dtype = torch.device(spec.device).type, DTYPES[spec.precision]
            undo.callback(give_freed_memory_back)  # the last that is done
            called = _only_called(model)
            for module in model.modules():
                if type(module) is nn.Linear and module.weight.dtype == torch.float32:  # of others who knows
                    if device == "cpu":
                        _pack(module, dtype, spec.batch_size * spec.tokens, module in called, undo)
                    else:
                        _replace(module, _rounded_product(module, dtype), undo)
                elif device == "cuda":
                    for norm in _norms_before_products(module):
                        _replace(norm, _rounded_norm(norm, dtype), undo)
            give_freed_memory_back()  # holes where weights were
        yield


def prepared_bytes(model: nn.Module, spec: RunSpec) -> int:
    """Bytes of the host that prepared weights take beside the model's own, in whose place some stand in float32."""
    if spec.forward == "plain" or torch.device(spec.device).type != "cpu":
        return 0
    gone = _only_called(model) if spec.precision == "float32" else set()
    kept = (m for m in model.modules() if type(m) is nn.Linear and m not in gone)
    return sum(m.weight.numel() * DTYPES[spec.precision].itemsize for m in kept)


def _replace(module: nn.Module, forward: Product, undo: ExitStack) -> None:
    setattr(module, "forward", forward)  # noqa: B010 - mypy takes it for a method
    undo.callback(delattr, module, "forward")


def forward_of(device: str, precision: Precision, kernels: bool) -> tuple[Forward, str]:
    """How the forward pass of a run is made, and why not from prepared weights where that would be quicker.

    kernels: whether the device has ours.
    """
    if device.startswith("cuda"):
        return ("prepared" if kernels and precision != "float32" else "plain"), ""
    if device != "cpu" or precision == "float16":
        return "plain", ""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), ExitStack() as undo:
            layer, x = nn.Linear(16, 16), torch.rand(4, 16)
            right = layer(x)
            _pack(layer, DTYPES[precision], len(x), True, undo)
            wrong = not torch.allclose(layer(x).float(), right, atol=0.05)
    except (AttributeError, RuntimeError) as error:  # built without oneDNN, or for another processor
        return "plain", str(error).strip().split("\n")[0]
    return ("plain", "products of packed weights come out wrong") if wrong else ("prepared", "")


def _only_called(model: nn.Module) -> set[nn.Module]:
    """Linear layers whose weights nobody else reads: BEiT and EVA multiply by qkv.weight past the layer."""
    return {m for parent in model.modules() if type(parent) in (Attention, Mlp) for m in parent.children()}


def _pack(layer: nn.Linear, dtype: torch.dtype, rows: int, only_called: bool, undo: ExitStack) -> None:
    """Have a layer compute from packed weights, in the order that is best for so many rows of its input.

    In float32 they stand in for the plain ones where these are read by no other, and these come back from them: two
    copies would be memory for nothing.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype), rows)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def product(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, bias, "none", [], "")
        return out

    _replace(layer, product, undo)
    if dtype == torch.float32 and only_called:
        undo.callback(lambda: setattr(layer.weight, "data", packed.to_dense()))
        layer.weight.data = torch.empty(0)


def _rounded_product(layer: nn.Linear, dtype: torch.dtype) -> Product:
    """x @ weight.T + bias from weights that are rounded already."""
    weight = layer.weight.detach().to(dtype)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    return lambda x: linear(x.to(dtype), weight, bias)


def _norms_before_products(block: nn.Module) -> list[nn.LayerNorm]:
    """Norms whose output only linear layers read: those of timm's own block."""
    if type(block) is not Block or type(block.attn) is not Attention or type(block.mlp) is not Mlp:
        return []
    both = [n for n in (block.norm1, block.norm2) if isinstance(n, nn.LayerNorm)]
    return [n for n in both if type(n) in (nn.LayerNorm, LayerNorm) and n.weight is not None and n.bias is not None]


def _rounded_norm(norm: nn.LayerNorm, dtype: torch.dtype) -> Product:
    """The norm in float32, its output rounded."""
    from .fused_kernels import layer_norm  # Triton is there where torch is made for CUDA

    weight, bias = norm.weight.detach().float(), norm.bias.detach().float()

    def rounded(x: Tensor) -> Tensor:
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        layer_norm(x.contiguous(), weight, bias, norm.eps, out)
        return out

    return rounded
