"""When two texts are the same class's name: the one rule, for labels of images and for what people ask for."""

from __future__ import annotations

import re
import unicodedata

WORDNET_ID = re.compile(r"n\d{8}(?![0-9A-Za-z])", re.IGNORECASE)  # at a text's beginning: 'n02085620-Chihuahua'


def plain(name: str) -> str:
    """A name without what people write in several ways: case, '_' for a blank, blanks, the encoding of accents."""
    folded = unicodedata.normalize("NFKD", name).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).replace("_", " ").split())


def wordnet_id(text: str) -> str | None:
    """The WordNet id with which a text begins."""
    match = WORDNET_ID.match(text.strip())
    return match[0].lower() if match else None
