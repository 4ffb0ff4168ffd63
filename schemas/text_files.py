"""Text files that users bring: read whole, as UTF-8, up to a size that no table of names needs."""

from __future__ import annotations

import errno
from pathlib import Path

MAX_BYTES = 2**28


def read_text(file: str | Path) -> str:
    """A file in UTF-8, with or without a byte order mark; also a pipe, as a shell gives for <(COMMAND).

    Raises OSError where it cannot be read or has no end (/dev/zero), UnicodeDecodeError where it is no UTF-8.
    """
    with Path(file).open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_BYTES:,} bytes", str(file))
    return content.decode("utf-8-sig")
