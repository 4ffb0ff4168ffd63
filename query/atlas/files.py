"""The files of an atlas: every address of its data, and what lies there. The server and the export ask here alone.

An address holds numbers and words of ours, never a name of the index: none of a stranger's letters reaches a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from typing import NamedTuple

from ...schemas.errors import QueryError
from .atlas import Atlas
from .class_page import class_page, pictures_of_class
from .image_page import image_page, picture_of
from .map_page import map_page
from .neuron_page import neuron_page, pictures_of
from .other_pages import about_page, layer_page, search_page, start_page
from .plain import json_bytes
from .thumbnails import pack

START = "data/start.json"  # what every page needs, and what a carrier adds to it
JSON, JPEG, PACK = "application/json", "image/jpeg", "application/octet-stream"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class File(NamedTuple):
    """What lies at an address."""

    content: bytes
    kind: str  # its media type


# What makes the data at an address, from the numbers in it.
_PATTERNS: tuple[tuple[str, str, Callable[..., bytes]], ...] = (
    (r"data/start\.json", JSON, lambda atlas: json_bytes(start_page(atlas))),
    (r"data/search\.json", JSON, lambda atlas: json_bytes(search_page(atlas))),
    (r"data/about\.json", JSON, lambda atlas: json_bytes(about_page(atlas))),
    (r"data/map\.json", JSON, lambda atlas: json_bytes(map_page(atlas))),
    (r"data/layer/(\d{1,9})\.json", JSON, lambda *of: _layer(*of)),
    (r"data/neuron/(\d{1,9})/(\d{1,9})\.json", JSON, lambda *of: json_bytes(neuron_page(*of))),
    (r"data/neuron/(\d{1,9})/(\d{1,9})\.jpgs", PACK, lambda *of: pack(pictures_of(*of))),
    (r"data/class/(\d{1,9})\.json", JSON, lambda atlas, row: json_bytes(class_page(atlas, row))),
    (r"data/class/(\d{1,9})\.jpgs", PACK, lambda atlas, row: pack(pictures_of_class(atlas, row))),
    (r"data/image/(\d{1,9})\.json", JSON, lambda atlas, number: json_bytes(image_page(atlas, number))),
    (r"data/image/(\d{1,9})\.jpg", JPEG, picture_of),
)
_ADDRESSES = [(re.compile(pattern, re.ASCII), kind, make) for pattern, kind, make in _PATTERNS]


def _layer(atlas: Atlas, place: int) -> bytes:
    """A layer's page, which never changes and has a row for every neuron."""
    made: bytes = atlas.once(("layer", place), lambda: json_bytes(layer_page(atlas, place)))
    return made


def data_file(atlas: Atlas, address: str) -> File:
    """The data at an address such as 'data/neuron/4/473.json'. Raises QueryError where there is none."""
    for pattern, kind, make in _ADDRESSES:
        if found := pattern.fullmatch(address):
            return File(make(atlas, *map(int, found.groups())), kind)
    raise QueryError("there is nothing at this address", "Begin at the first page.")


@cache
def front_end() -> dict[str, File]:
    """The files of the front end by address: index.html, and the rest in static/."""
    folder = resources.files("vitdex.query.atlas").joinpath("static")
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        address = file.name if file.name == "index.html" else f"static/{file.name}"
        found[address] = File(file.read_bytes(), KINDS[file.name[file.name.rindex(".") :]])
    return found


def neuron_addresses(place: int, unit: int, pictures: bool) -> Iterator[str]:
    """The addresses of a neuron's page."""
    yield f"data/neuron/{place}/{unit}.json"
    if pictures:
        yield f"data/neuron/{place}/{unit}.jpgs"
