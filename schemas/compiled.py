"""Functions compiled by Numba, kept on disk where there is a folder for them that may be written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: `numba.njit` with these options. Compiled anew in every process where Numba can keep nothing."""

    def compile_it(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # "no locator": neither the installation nor the home can be written to
            return numba.njit(**options)(function)

    return compile_it
