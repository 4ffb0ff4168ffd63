"""vitdex's folders outside any index: the user's config and cache, where the system has them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

WINDOWS = {"config": ("APPDATA", "Roaming", "vitdex"), "cache": ("LOCALAPPDATA", "Local", "vitdex/Cache")}
MACOS = {"config": "Application Support", "cache": "Caches"}


def user_folder(kind: Literal["config", "cache"]) -> Path:
    """A folder of vitdex's: in XDG_CONFIG_HOME or XDG_CACHE_HOME where that is set, else where the system keeps it.

    Raises RuntimeError where the user has no home.
    """
    if (given := Path(os.environ.get(f"XDG_{kind.upper()}_HOME", ""))).is_absolute():
        return given / "vitdex"
    if sys.platform == "win32":
        variable, name, own = WINDOWS[kind]
        return Path(os.environ.get(variable) or Path.home() / "AppData" / name) / own
    if sys.platform == "darwin":
        return Path.home() / "Library" / MACOS[kind] / "vitdex"
    return Path.home() / f".{kind}" / "vitdex"
