"""A model run again on the same images with later blocks changed, without computing the earlier ones anew.

    again = Rerun(live, pixels, blocks=[4, 5])       # runs once and keeps what these blocks read
    with replaced(live, neurons, substitute, ids):   # neurons of block 4 and later
        again.logits(4)                              # [image, class], by block 4 and what follows it

Imports torch: it runs a model.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from .edits import changed, recording, skipped
from .live_model import LiveModel


class Rerun:
    """What blocks read on a batch of images [image, channel, y, x], and the answer `before` anything is changed."""

    def __init__(self, live: LiveModel, pixels: Tensor, blocks: Collection[int]) -> None:
        self._live, self._pixels = live, pixels
        modules = {str(block): self._block(block) for block in blocks}
        with torch.inference_mode(), recording(inputs=modules) as self._read:
            self.before: Tensor = live(pixels, [])[0]

    def logits(self, block: int) -> Tensor:
        """The answer [image, class] where nothing before this block has changed."""
        earlier = [module for number, module in self._blocks() if number < block]
        read = self._read[str(block)]
        with torch.inference_mode(), skipped(earlier), changed(self._block(block), lambda _: read, "input"):
            answer: Tensor = self._live(self._pixels, [])[0]
        return answer

    def _block(self, number: int) -> nn.Module:
        return self._live.anatomy.model.get_submodule(f"blocks.{number}")

    def _blocks(self) -> list[tuple[int, nn.Module]]:
        numbers = sorted({layer.block for layer in self._live.anatomy.every_layer})
        return [(number, self._block(number)) for number in numbers]
