"""What an image is to excite, in the words of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import QueryError
from ..lookups.class_images import class_images
from ..lookups.key_neurons import siblings
from ..model.live_model import LiveModel
from ..stored.names import Neuron
from .objectives import Objective, away_from, class_logit, excite, like_stored

Over = Literal["mean", "max", "logit"]
Contrast = Literal["siblings", "features"]
MOST_POSITIVES = 100  # images of its class that a contrastive objective moves towards


@dataclass(frozen=True)
class Target:
    """What to excite, and how: the words of the command line.

    over: 'mean' or 'max' over the patches, the number of one patch, or 'logit' of the class.
    post: after the nonlinearity. contrast: 'siblings' (not the top neurons of the classes nearest to it) or 'features'
    (InfoNCE against stored features, towards the class's images, or the neuron's top ones where there is no class).
    """

    neurons: tuple[Neuron, ...]
    class_id: int | None = None
    over: Over | int = "mean"
    post: bool = False
    contrast: Contrast | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.over, int) and self.over not in get_args(Over):
            remedy = f"One of {', '.join(get_args(Over))}, or the number of a patch."
            raise QueryError(f"nothing to excite is called '{self.over}'", remedy)

    def objective(self, live: LiveModel, seed: int) -> Objective:
        """Raises QueryError where the target asks for what the index does not have."""
        if (self.over == "logit" or self.contrast == "siblings") and self.class_id is None:
            raise QueryError("this objective needs a class", "Give --class.")
        if self.over == "logit" and self.class_id is not None:
            found = class_logit(live, self.class_id)
        else:
            found = excite(live, self.neurons, self.over, self.post)
        if self.contrast == "siblings" and self.class_id is not None:
            found += away_from(live, siblings(live.index, self.class_id, self.neurons))
        if self.contrast == "features":
            found += like_stored(
                live, self._positives(live), seed, "its class" if self.class_id is not None else "its top"
            )
        return found

    def _positives(self, live: LiveModel) -> NDArray[np.int64]:
        if self.class_id is None:
            return live.index.exemplars(*self.neurons[0]).image_id.to_numpy(np.int64)
        ids = class_images(live.index, self.class_id).image_id.to_numpy(np.int64)
        return np.sort(ids)[:MOST_POSITIVES]
