"""Names and texts of strangers as they are shown: nothing in them moves a cursor, colours, or turns the reading order.

What is stored, and what goes to programs (CSV, JSON, Parquet), stays as it is.
"""

from __future__ import annotations

import re

# control characters, ends of lines and paragraphs, what turns the direction of the letters after it, halves of letters
_UNSHOWN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str, lines: bool = False) -> str:
    """A text as one line of letters: what is none is written like '\\x1b' or '\\u202e'. `lines`: ends of lines stay."""
    if text.isprintable():
        return text
    return _UNSHOWN.sub(lambda found: found[0] if lines and found[0] == "\n" else _code(found[0]), text)


def shortened(text: str, most: int = 80) -> str:
    """The beginning of a text that may be of any length."""
    return text if len(text) <= most else f"{text[:most]}..."


def _code(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
