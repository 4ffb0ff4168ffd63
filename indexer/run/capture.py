"""One batch through the model: every layer's maps and summaries, on the device.

    with Capture(anatomy, spec, head, statistics) as capture:
        captured = capture(pixels, image_ids)
        captured.arrays                          # {"blocks.0.mlp.fc1/max": [image, neuron], ...}
        capture.check(captured.sizes)            # once they are on the host

Nothing here waits for the device: on CUDA it is still at work when a call returns (lanes.py).

All reductions are made in float32, whatever the precision of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...data.images.preprocess import mean_and_std, normalise
from ...data.models.anatomy import Anatomy, UnitLayer
from ...data.models.checkpoints import listed
from ...data.models.device import DTYPES
from ...data.models.head import Head
from ...schemas.errors import ModelError
from ...schemas.run_spec import RunSpec
from ..statistics.bins import where_bins_lie
from ..statistics.threshold_counts import Bins, Statistics, pick_patches
from .lanes import to_device
from .reduce import Room, first_rows, reduce_compiled, reduce_fused, reduce_plain, room_for

HALF = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Captured:
    """What one batch leaves, on the device. They hold until the next call."""

    arrays: dict[str, Tensor]  # by their path in the index
    sizes: Tensor  # the largest size of every layer's values and of the features: NaN or Inf where one is


@dataclass
class _Pass:
    """What one forward pass keeps until its end."""

    picked: Tensor | None = None
    raw: dict[str, Tensor] = field(default_factory=dict)  # values before the nonlinearity until they are read
    out: dict[str, Tensor] = field(default_factory=dict)
    activated: dict[str, Tensor] = field(default_factory=dict)  # after the nonlinearity, as far as the head reads it
    post_sigma: dict[str, Tensor] = field(default_factory=dict)
    features: Tensor | None = None
    sigma: Tensor | None = None


class Capture:
    """Hooks that live inside the `with`. Calling it runs one batch of valid images."""

    def __init__(self, anatomy: Anatomy, spec: RunSpec, head: Head, statistics: Statistics | None) -> None:
        """statistics: to which every batch is added; None: nobody wants any."""
        self.anatomy, self.spec, self.head, self.statistics = anatomy, spec, head, statistics
        self.device = torch.device(spec.device)
        self.mean, self.std = mean_and_std(spec.preprocessing, self.device)
        self.kept = _Pass()
        self._calibrated: Bins | None = None  # while bins are laid
        self._hooks: list[RemovableHandle] = []
        self._room: dict[str, Room] = {}  # by layer; only where reductions are compiled
        self.fused = spec.compiled and self.device.type == "cuda"
        if spec.compiled and not self.fused:
            of_batch = (spec.batch_size, spec.tokens, spec.prefix)
            self._room = {layer.name: room_for(*of_batch, layer.units, spec.maps) for layer in spec.layers}

    def __enter__(self) -> Capture:
        wanted = {layer.name for layer in self.spec.layers}
        for layer in self.anatomy.every_layer:
            if layer.name in wanted:
                if getattr(layer.act, "inplace", False):  # it would overwrite the values before they are read
                    layer.act.inplace = False  # type: ignore[assignment]
                if layer.keys is not None:
                    self._hook(layer.keys, self._keep_raw(layer.name))
                self._hook_input(layer.out, self._on_active(layer))
                if layer.post_norm_module is not None:
                    self._hook_input(layer.post_norm_module, self._on_post_norm(layer))
            if layer.residual_name in wanted:
                self._hook(layer.out, self._on_residual(layer.residual_name))
        if self.anatomy.readout.norm_module is not None and self.anatomy.readout.defined:
            self._hook_input(self.anatomy.readout.norm_module, self._on_final_norm)
        self._hook_input(self.anatomy.head, self._on_head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _hook(self, module: nn.Module, act: Callable[[Tensor], None]) -> None:
        self._hooks.append(module.register_forward_hook(lambda m, args, out: act(out)))

    def _hook_input(self, module: nn.Module, act: Callable[[Tensor], None]) -> None:
        self._hooks.append(module.register_forward_pre_hook(lambda m, args: act(args[0])))

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, ids: Sequence[int]) -> Captured:
        """Arrays of a batch from its pixels uint8 [image, y, x, channel]."""
        return self.launch(*self.inputs(pixels, ids))

    def inputs(self, pixels: Tensor, ids: Sequence[int]) -> list[Tensor]:
        """What `launch` takes, on the device: pixels, and where not all patches count, which: int64 [image, k]."""
        taken = [pixels]
        if self.spec.counted_patches < self.spec.patches:
            taken.append(pick_patches(ids, self.spec.patches, self.spec.counted_patches))
        return [to_device(one, self.device) for one in taken]

    @torch.inference_mode()
    def launch(self, pixels: Tensor, picked: Tensor | None = None) -> Captured:
        """The same from what is on the device: nothing here comes from the host, so that it can be repeated."""
        self.kept = kept = _Pass(picked)
        self._root(self._forward(pixels))
        for layer in self.spec.layers:
            if layer.name in kept.activated:
                self._read(layer.name)
        return Captured(kept.out, self._sizes())

    @torch.inference_mode()
    def calibrate(self, pixels: Tensor) -> Bins:
        """Bins of all layers around what they do on these pixels."""
        self.kept, self._calibrated = _Pass(), {}
        try:
            self._forward(to_device(pixels, self.device))
            return self._calibrated
        finally:
            self._calibrated = None

    def _forward(self, pixels: Tensor) -> Tensor:
        x = normalise(pixels, self.mean, self.std)
        reduced = self.spec.precision != "float32"
        with torch.autocast(self.device.type, DTYPES[self.spec.precision], enabled=reduced):
            output: Tensor = self.anatomy.model(x)
        return output

    def _root(self, output: Tensor) -> None:
        kept, out = self.kept, self.kept.out
        assert kept.features is not None
        features = kept.features.float()
        out["features"] = features.half()
        if self.spec.classes:
            out["logits"] = self.head.logits(features) if self.head.own else output.float()
        if kept.sigma is not None and kept.sigma.ndim == 1:
            out["sigma"] = kept.sigma

    def _sizes(self) -> Tensor:
        kept = self.kept
        assert kept.features is not None
        leaves = ("max", "min", "mean", *(["cls"] if self.spec.cls else []))
        layers = [torch.stack([kept.out[f"{a.name}/{leaf}"] for leaf in leaves]) for a in self.spec.layers]
        return torch.stack([*(values.abs().amax() for values in layers), kept.features.float().abs().amax()])

    def check(self, sizes: Tensor) -> None:
        """Raise ModelError, naming the first layers, where values are not finite or too large for the maps."""
        spec = self.spec
        names = [layer.name for layer in spec.layers]
        broken = [n for n, size in zip([*names, "the head's input"], sizes.tolist(), strict=True) if not isfinite(size)]
        if broken:
            reduced = spec.precision != "float32"
            remedy = "Use --precision float32." if reduced else "The model overflows on an image of this batch."
            raise ModelError(f"values of {listed(broken)} are not finite (NaN or Inf) in {spec.precision}", remedy)
        beyond = [name for name, size in zip(names, sizes.tolist(), strict=False) if size > HALF]
        if spec.maps == "float16" and beyond:
            raise ModelError(
                f"values of {listed(beyond)} are beyond {HALF:,.0f}, float16's largest", "Use --maps uint8."
            )

    def _on_head(self, x: Tensor) -> None:
        if self.kept.features is None:
            self.kept.features = x

    def _on_final_norm(self, x: Tensor) -> None:
        readout = self.anatomy.readout
        assert readout.norm is not None
        self.kept.sigma = readout.norm.sigma(self._head_tokens(x) if x.ndim == 3 else x)

    def _head_tokens(self, x: Tensor) -> Tensor:
        """Of tokens [image, token, d], those that the head reads: token 0, or all patches."""
        return x[:, 0] if self.spec.readout == "token" else x[:, self.spec.prefix :]

    def _on_post_norm(self, layer: UnitLayer) -> Callable[[Tensor], None]:
        def keep(x: Tensor) -> None:
            assert layer.post_norm is not None
            self.kept.post_sigma[layer.name] = layer.post_norm.sigma(self._head_tokens(x))

        return keep

    def _keep_raw(self, name: str) -> Callable[[Tensor], None]:
        return lambda x: self.kept.raw.__setitem__(name, x)

    def _on_active(self, layer: UnitLayer) -> Callable[[Tensor], None]:
        """Where the last linear layer begins both are there: values before the nonlinearity, if any, and after it."""

        def reduce(y: Tensor) -> None:
            self._summaries(layer.name, y if layer.keys is None else self.kept.raw.pop(layer.name), y)
            if layer.keys is None and self._calibrated is None:
                self._keep_lowest(layer.name, y)
            if self.anatomy.readout.defined and self._calibrated is None:
                self._keep_activated(layer, y)

        return reduce

    def _on_residual(self, name: str) -> Callable[[Tensor], None]:
        return lambda x: self._summaries(name, x, x)

    def _summaries(self, name: str, x: Tensor, y: Tensor) -> None:
        """Reduce values [image, token, neuron] of one layer, x before and y after the nonlinearity."""
        out, prefix = self.kept.out, self.spec.prefix
        if self._calibrated is not None:
            self._calibrated[name] = where_bins_lie(x[:, prefix:].float().flatten(0, 1).T.contiguous())
            return
        if self.fused:
            reduced = reduce_fused(x, y, prefix, self.spec.maps)
        elif self.spec.compiled:
            reduced = reduce_compiled(x, y, prefix, self.spec.maps, self._room[name])
        else:
            reduced = reduce_plain(x, y, prefix, self.spec.maps)
        out |= {f"{name}/{leaf}": values for leaf, values in reduced.items()}
        if self.spec.cls:
            out[f"{name}/cls"] = self._own(name, "cls", x[:, 0])
        if self.statistics is not None:
            self.statistics.count(name, x, prefix, self.kept.picked, self.spec.compiled)

    def _own(self, name: str, leaf: str, x: Tensor) -> Tensor:
        """Values [image, neuron] in float32 and in memory of their own: a view would keep the whole layer."""
        if name in self._room:
            return first_rows(self._room[name][leaf], len(x)).copy_(x)
        return x.to(torch.float32, copy=True)

    def _keep_lowest(self, name: str, y: Tensor) -> None:
        """Where units without a nonlinearity are lowest: below 0 they speak as well, and their bottom exemplars want a
        patch."""
        lowest = y[:, self.spec.prefix :].argmin(1)
        if name in self._room:
            lowest = first_rows(self._room[name]["argmin"], len(y)).copy_(lowest)
        self.kept.out[f"{name}/argmin"] = lowest

    def _keep_activated(self, layer: UnitLayer, y: Tensor) -> None:
        """Keep what the head will read of a layer: one token, a pooled vector, or, where sigma differs, all patches."""
        kind = self.anatomy.readout.kind
        if kind == "token":
            self.kept.activated[layer.name] = self._own(layer.name, "activated", y[:, 0])
        elif kind == "mean" and layer.post_norm is None:
            self.kept.activated[layer.name] = self.kept.out[f"{layer.name}/post_mean"]
        else:
            self.kept.activated[layer.name] = y[:, self.spec.prefix :].to(torch.float32, copy=True)

    def _read(self, name: str) -> None:
        """activation / sigma, averaged over what the head pools (CLASS SPACE in FORMAT.md): `read` and `scale`."""
        kept = self.kept
        assert kept.sigma is not None
        weight = 1 / kept.sigma  # [image], or [image, patch] where the norm stands before the pooling
        activated, post = kept.activated[name], kept.post_sigma.get(name)
        if activated.ndim == 3:
            per_patch = (weight if weight.ndim == 2 else weight[:, None]).expand(-1, activated.shape[1])
            if post is not None:
                per_patch = per_patch / post
            read, scale = (activated * per_patch[..., None]).mean(1), per_patch.mean(1)
        else:
            if post is not None:
                weight = weight / post
            read, scale = activated * weight[:, None], weight
        kept.out[f"{name}/read"], kept.out[f"{name}/scale"] = read, scale
