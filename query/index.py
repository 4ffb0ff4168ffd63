"""A finished index, to be asked. Light: no torch, no timm, no pictures until one is asked for.

with Index("imagenet.vitdex") as index:
    index.sql("FROM key_neurons WHERE class = 'goldfish' LIMIT 10")   # pandas.DataFrame
    index.map("blocks.11.mlp.fc1", 2014, image_id=17)                 # float32 [rows, columns]
    index.exemplars("blocks.11.mlp.fc1", 2014, k=15)                  # pandas.DataFrame

A method is a look-up in stored facts, or a picture of them. Every other question is a function `f(index, ...)` of
vitdex.query.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..schemas.integrity import Finding, verify
from ..schemas.progress import Progress
from .atlas.extra import needing_extra
from .dissect.logits import logit_terms
from .heatmaps.neuron_card import NeuronCard, neuron
from .lookups.key_neurons import Ranking, key_neurons
from .lookups.neuron import classes_of
from .stored.names import NeuronLike
from .stored.stored_index import StoredIndex

if TYPE_CHECKING:
    from .atlas.notebook import AtlasPage, NotebookServer
    from .drawing.heatmap_sheet import Heatmaps
    from .heatmaps.views import ScaleOf, View


class Index(StoredIndex):
    """A stored index with the questions as methods."""

    _server: NotebookServer | None = None  # of its atlas, once a page was asked for

    def close(self) -> None:
        """Let go of all files, and stop the server of the atlas. What is asked afterwards raises QueryError."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        super().close()

    def verify(self, quick: bool = False, *, progress: Progress | None = None) -> list[Finding]:
        """Files that are damaged, missing or foreign; an empty list where all is well. See schemas.integrity.verify."""
        return verify(self.layout.root, quick, progress=progress)

    def key_neurons(
        self, class_: str | int, k: int = 10, by: Ranking | None = None, layer: str | None = None
    ) -> pd.DataFrame:
        """A class's k key neurons, best first: rows of the view key_neurons, with `rank`. See query.key_neurons."""
        return key_neurons(self, class_, k, by, layer)

    def classes_of(self, layer: str, unit: int, k: int = 10) -> pd.DataFrame:
        """The k classes that a neuron's value vector says loudest. See query.classes_of."""
        return classes_of(self, layer, unit, k)

    def neuron(self, layer: str, unit: int, k: int = 10) -> NeuronCard:
        """A neuron's statistics, thresholds, exemplars, classes and notes in one. See query.NeuronCard."""
        return neuron(self, layer, unit, k)

    def logit_terms(
        self,
        class_: str | int,
        image: str | int | None = None,
        k: int = 100,
        seed: int = 0,
        *,
        weights: str | Path | None = None,
        device: str | None = None,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """How a class's logit builds up, block by block; runs the model. See query.logit_terms."""
        return logit_terms(self, class_, image, k, seed, weights=weights, device=device, progress=progress)

    def heatmap(
        self,
        layer: str,
        unit: int,
        image: str | int,
        view: View = "map",
        class_: str | int | None = None,
        scale: ScaleOf = "neuron",
        *,
        weights: str | Path | None = None,
        device: str | None = None,
    ) -> Heatmaps:
        """A neuron over an image. See query.neuron_heatmaps."""
        return self.heatmaps([(layer, unit)], [image], view, class_, scale, weights=weights, device=device)

    def heatmaps(
        self,
        neurons: Sequence[NeuronLike],
        images: Sequence[str | int],
        view: View = "map",
        class_: str | int | None = None,
        scale: ScaleOf = "neuron",
        *,
        weights: str | Path | None = None,
        device: str | None = None,
    ) -> Heatmaps:
        """Neurons over images, one picture. See query.neuron_heatmaps."""
        from .heatmaps.heatmap import neuron_heatmaps

        return neuron_heatmaps(self, neurons, images, view, class_, scale, weights=weights, device=device)

    def class_heatmaps(
        self,
        class_: str | int,
        k: int = 5,
        images: int = 5,
        view: View = "map",
        scale: ScaleOf = "neuron",
        by: Ranking | None = None,
        *,
        weights: str | Path | None = None,
        device: str | None = None,
    ) -> Heatmaps:
        """A class's k key neurons over its images. See query.class_heatmaps."""
        from .heatmaps.heatmap import class_heatmaps

        return class_heatmaps(self, class_, k, images, view, scale, by, weights=weights, device=device)

    def atlas(
        self,
        neuron: NeuronLike | None = None,
        class_: str | int | None = None,
        image: str | int | None = None,
        *,
        height: int = 700,
        port: int = 0,
    ) -> AtlasPage:
        """A page of the atlas in Jupyter: of a neuron, a class or an image, or else the first.

        Pages of one index share a server on 127.0.0.1, in a thread of this process; it ends with the last of them.

        Args:
            height: of the frame, in pixels.
            port: of the server; 0 for the one that it has, or any that is free.

        Returns:
            An AtlasPage, which Jupyter shows as a frame; with address and close(), and a context manager.

        Raises:
            QueryError: no such neuron, class or image; the port is taken; the extra vitdex[atlas] is missing.

        Example:
            >>> index.atlas("blocks.4.mlp.fc1:473")
        """
        with needing_extra():
            from .atlas.notebook import open_page, place_of

        self._must_be_open()
        place = place_of(self, neuron, class_, image)
        with self._opening:
            page = open_page(self, self._server, place, height, port)
            self._server = page.server
        return page
