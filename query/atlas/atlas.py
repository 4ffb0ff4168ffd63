"""An index as an atlas: what its pages are made of, read once and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ...schemas.run_spec import Side
from ..lookups.key_neurons import RANKINGS, Ranking, default_ranking
from ..stored.stored_index import StoredIndex
from .columns import Exemplars, Images, Neurons, all_images, all_neurons, layer_classes, layer_exemplars, ranking_tables
from .nearness import Nearness
from .thumbnails import thumbnail

LAYERS_KEPT = 3  # whose classes are held: 85 MB a layer of ViT-B/16 with 1,000 classes
THUMBNAILS_KEPT = 50_000  # about 3 kB each


class Atlas:
    """An open index and what its pages share. Any number of threads may ask; what is made first is made once."""

    def __init__(self, index: StoredIndex) -> None:
        self.index = index
        self._lock = threading.RLock()
        self._kept: dict[Hashable, Any] = {}
        self._classes = lru_cache(LAYERS_KEPT)(lambda place: layer_classes(index, self.layer(place)))
        self._thumbnails: OrderedDict[int, bytes] = OrderedDict()

    def once(self, what: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives, made when it is first asked for and kept under a name of its own."""
        if what not in self._kept:
            with self._lock:
                if what not in self._kept:
                    self._kept[what] = make()
        return self._kept[what]

    def layer(self, place: int) -> str:
        """The name of the layer at a place among all. Raises QueryError where there is none."""
        layers = self.index.spec.layers
        if not 0 <= place < len(layers):
            raise QueryError(f"no layer {place}", f"Layers count from 0 to {len(layers) - 1}.")
        return layers[place].name

    @property
    def neurons(self) -> Neurons:
        found: Neurons = self.once("neurons", lambda: all_neurons(self.index))
        return found

    @property
    def images(self) -> Images:
        found: Images = self.once("images", lambda: all_images(self.index))
        return found

    @property
    def nearness(self) -> Nearness:
        found: Nearness = self.once("nearness", lambda: Nearness(self.index))
        return found

    def exemplars(self, place: int) -> dict[Side, Exemplars]:
        """The exemplars of a layer that pages show."""
        layer = self.layer(place)
        found: dict[Side, Exemplars] = self.once(("exemplars", place), lambda: layer_exemplars(self.index, layer))
        return found

    def classes(self, place: int) -> dict[Ranking, NDArray[np.float32]]:
        """What a layer's neurons say of the classes, [class, unit] by ranking; the last few layers are kept."""
        with self._lock:  # each is large: none is made twice
            return self._classes(place)

    def says(self, place: int, unit: int) -> int:
        """The class that a neuron's value vector says loudest; -1 where there is none."""
        class_id = self.neurons.columns["says"][self.neurons.row(place, unit)]
        return -1 if np.isnan(class_id) else int(class_id)

    @property
    def rankings(self) -> list[Ranking]:
        """The rankings of key neurons that the index has, the one first by which it ranks where nobody says."""
        found: list[Ranking] = self.once("rankings", self._rankings)
        return found

    def _rankings(self) -> list[Ranking]:
        if not self.index.spec.classes:
            return []
        known = "SELECT 1 FROM {} WHERE {} IS NOT NULL LIMIT 1"
        tables = ranking_tables(self.index)
        held = [by for t, names in tables.items() for by in names if self.index.tables.rows(known.format(t, by), [])]
        first = default_ranking(self.index)
        return sorted(held, key=lambda by: (by != first, RANKINGS.index(by)))

    def thumbnails(self, image_ids: Sequence[int]) -> list[bytes]:
        """Images as small JPEGs. Raises QueryError where the index stores no inputs."""
        found = {i: self._thumbnails.get(i) for i in image_ids}
        missing = [i for i, small in found.items() if small is None]
        if missing:
            made = dict(zip(missing, map(thumbnail, self.index.inputs(missing)), strict=True))
            found.update(made)
            with self._lock:
                self._thumbnails.update(made)
                while len(self._thumbnails) > THUMBNAILS_KEPT:
                    self._thumbnails.popitem(last=False)
        return [small for i in image_ids if (small := found[i]) is not None]
