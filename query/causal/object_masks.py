"""What this wing asks of masks; `open_masks` of query/dissect gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class ObjectMasks(Protocol):
    """The images that have a mask, and the object's share of their patches."""

    @property
    def images(self) -> pd.DataFrame:
        """A row an image, with its image_id."""

    @property
    def sha256(self) -> str:
        """What tells these masks from others, in hex."""

    def covers(self, image_ids: Sequence[int]) -> NDArray[np.float64]:
        """Of images that have a mask: [image, patch]."""
