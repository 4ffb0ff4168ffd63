"""From images to an index. Stays light: torch and timm are imported where a model really runs."""

import os

from .from_python import build_index, index_with_head, repair_index

# Torch and Numba each keep a pool of OpenMP threads. Idle threads that spin take the cores from the other pool (a tenth
# of a run on two cores); they must be told before torch is imported, and a choice of the user's own stands.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

__all__ = ["build_index", "index_with_head", "repair_index"]
