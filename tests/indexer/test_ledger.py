"""The ledger's files are what every earlier run has written: their bytes are a format."""

from __future__ import annotations

from pathlib import Path

from vitdex.indexer.ledger import Ledger, PartEntry
from vitdex.schemas.facts import FileFacts, ImageFacts
from vitdex.schemas.layout import Layout

ENTRY = """{
 "part": 0,
 "files": {
  "activations.zarr/valid/c/0": [
   6,
   "0123456789abcdef0123456789abcdef"
  ]
 },
 "images": [
  {
   "path": "bird/1.jpg",
   "label": "bird",
   "width": 500,
   "height": 375,
   "crop": [
    62.5,
    0.0,
    437.5,
    375.0
   ]
  },
  {
   "path": "broken.png",
   "label": null,
   "reason": "the file is empty"
  }
 ],
 "seconds": 1.25
}"""


def test_an_entry_is_written_and_read_as_ever(tmp_path: Path) -> None:
    entry = PartEntry(
        0,
        {"activations.zarr/valid/c/0": FileFacts(6, "0123456789abcdef0123456789abcdef")},
        [
            ImageFacts("bird/1.jpg", "bird", 500, 375, (62.5, 0.0, 437.5, 375.0)),
            ImageFacts("broken.png", None, reason="the file is empty"),
        ],
        1.25,
    )
    layout = Layout(tmp_path)
    Ledger(layout).finish_part(entry)
    assert layout.entry(0).read_text() == ENTRY
    assert Ledger(layout).entries(1) == [entry]
    assert [image.readable for image in entry.images] == [True, False]
