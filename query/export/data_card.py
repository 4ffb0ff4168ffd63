"""The data card of a published index: README.md, made from what its manifest says.

What an index says may be a stranger's: it stands in code spans, where it is neither a link nor HTML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ...schemas.addressed import is_address
from ...schemas.facts import Files
from ...schemas.manifest import Manifest
from ...schemas.numbers_shown import number_of
from ...schemas.run_spec import RunSpec
from ...schemas.shown_text import escaped, shortened
from ...schemas.sizes import bytes_text
from .published import WholeIndex

MAPS = {
    "uint8": "all, in one byte a patch",
    "float16": "all, in float16",
    "exemplars": "of each neuron's top 100 images",
    "none": "none",
}
FILES = """
- `manifest.json`: what was run, and every file with its size and checksum.
- `index.duckdb`: the tables, for any DuckDB.
- `activations.zarr`: the arrays, for any reader of Zarr 3.
- `parts/`: what the index was made of, part by part.
"""
PIXELS = {
    True: "**It holds the images' pixels** as the model saw them (the array `inputs`): share it only if you may share "
    "the images.",
    False: "It holds none of the images' pixels; their names, sizes and classes stand in its tables.",
}
LEAST_SIZES = {1_000_000: "1M<n<10M", 100_000: "100K<n<1M", 10_000: "10K<n<100K", 1000: "1K<n<10K", 0: "n<1K"}


def data_card(source: WholeIndex, made: Files, where: str) -> str:
    """The card's text. where: the address, or the folder's name."""
    manifest = source.sealed(made)
    spec = RunSpec.from_json(manifest["run"])
    head = "".join(_front_matter(spec, where)) if where.startswith("hf://") else ""
    facts = "".join(f"- {name}: {value}\n" for name, value in _facts(manifest, spec))
    notes = "".join(f"- {_code(note)}\n" for note in manifest["notes"])
    files = FILES + "".join(f"- `{one.inside}/`: what 'vitdex {one.name}' has added.\n" for one in source.extensions)
    return (
        f"{head}# {_code(spec.model)}: what its neurons do\n\n"
        "An index of vitdex: what every neuron of a Vision Transformer does on a set of images.\n\n"
        f"{facts}\n{PIXELS[spec.inputs]}\n\n## Open it\n\n{_opening(where)}\n## Files\n{files}"
        + (f"\n## Notes\n\n{notes}" if notes else "")
    )


def _front_matter(spec: RunSpec, where: str) -> Iterator[str]:
    """What the hub reads. The licence is its owner's to state: it depends on the model and the images."""
    size = next(text for least, text in LEAST_SIZES.items() if spec.images >= least)
    yield "---\n"
    yield f"pretty_name: {json.dumps(where.rpartition('/')[2])}\n"
    yield "license: unknown\nviewer: false\ntags:\n- vitdex\n- interpretability\n- vision-transformer\n"
    yield f"size_categories:\n- {size}\n---\n\n"


def _facts(manifest: Manifest, spec: RunSpec) -> Iterator[tuple[str, str]]:
    images, accuracy = manifest["images"], manifest.get("accuracy")
    size = sum(count for count, _ in manifest["files"].values())
    yield "model", f"{_code(spec.model)}, weights' sha256 `{_code(spec.weights_sha256)[1:-1]}`"
    yield "head", _code(spec.head)
    yield "images", f"{images['indexed']:,} of {_code(spec.source)}; {images['failed']:,} could not be read"
    yield "classes", f"{spec.classes:,}, names from {_code(spec.class_names)}"
    yield "neurons", f"{spec.neurons:,} in {number_of(len(spec.layers), 'layer')}"
    yield "computed in", f"{spec.precision} on {_code(spec.device)}"
    yield "maps", MAPS[spec.maps]
    if accuracy is not None:
        top5 = "" if accuracy["top5"] is None else f", top-5 {accuracy['top5']:.1%}"
        yield "accuracy", f"top-1 {accuracy['top1']:.1%}{top5} of {number_of(accuracy['images'], 'image')}"
    yield "made", f"{_code(manifest['created'])} with {_code(_versions(spec))}"
    yield "size", f"{bytes_text(size)} in {number_of(len(manifest['files']), 'file')}"


def _versions(spec: RunSpec) -> str:
    return ", ".join(f"{name} {number}" for name, number in spec.versions.items()) or "versions unknown"


def _opening(where: str) -> str:
    extra = "'vitdex[remote]'" if is_address(where) else "vitdex"
    shown = escaped(where)
    return (
        f"```sh\npip install {extra}\nvitdex info {json.dumps(shown)}\n```\n\n"
        f"```python\nfrom vitdex.query import Index\n\nindex = Index({json.dumps(shown)})\n```\n"
    )


def _code(text: str) -> str:
    """A text of the index, in a line, as it is."""
    return f"`{shortened(escaped(text), 300).replace('`', chr(39))}`"
