"""Names of classes and labels of images as files bring them."""

from __future__ import annotations

import csv
import json
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ...schemas.class_text import wordnet_id
from ...schemas.errors import ModelError, SourceError
from ...schemas.text_files import read_text

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "imageid", "image_id", "name")
LABEL_COLUMNS = ("class", "label", "wnid", "class_name", "class_id", "target", "predictionstring")
HOW = "Give a table of file and class (CSV, TSV or 'FILE CLASS'), or one class a line in the order of the files."
LONGEST = 1000  # letters of a class; Python reads no longer numbers either
DEVKIT = "meta.mat"  # in the same folder of ILSVRC's devkit as its ground truth

Labels = dict[str, str] | list[str]  # by file name, or in the order of the sorted files


def read_names(file: Path) -> tuple[str, ...]:
    """The names in a text file, one a line; empty lines do not count. Raises ModelError where it cannot be read."""
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"no readable class names in {file}", "Give one name a line, in UTF-8.") from error
    if any(len(line) > LONGEST for line in lines):
        raise ModelError(f"a class name in {file} has more than {LONGEST:,} letters", "Give one name a line.")
    return tuple(line for line in lines if line)


def parse_names(text: str, rows: int, file: Path) -> tuple[str, ...]:
    """The names in a head's metadata, a JSON list of one a row. Raises ModelError for anything else."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_text(name) for name in names):
        raise ModelError(f"the class names in {file.name} are not a JSON list of texts", "Write a JSON list of names.")
    if len(names) != rows:
        raise ModelError(f"{file.name} names {len(names)} classes for {rows} rows", "Name every row.")
    if any(len(name) > LONGEST for name in names):
        raise ModelError(f"a class name in {file.name} has more than {LONGEST:,} letters", "Shorten it.")
    return tuple(names)


def _is_text(name: str) -> bool:
    """Whether a name can be written: JSON allows halves of letters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def read_labels(file: Path) -> Labels:
    """The label of every image that a file names, or of all images in the order of their names.

    Read are tables with a header (path, file, filename, image ...; class, label, wnid ...), tables of file and class
    without one (Tiny ImageNet's val_annotations.txt, Caffe's 'FILE NUMBER', Kaggle's LOC_val_solution.csv), and lists.
    A list of ILSVRC's numbers counts from 1 in the devkit's own order, which meta.mat beside it tells.

    Raises:
        SourceError: it cannot be read, or is none of these.
    """
    try:
        rows = _rows([line for line in read_text(file).splitlines() if line.strip()])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"no readable labels in {file}", HOW) from error
    if not rows:
        raise SourceError(f"{file} holds no labels", HOW)
    if all(len(row) == 1 for row in rows):
        return _listed([_label(row[0], file) for row in rows], file)
    if any(len(row) < 2 for row in rows):
        short = next(i for i, row in enumerate(rows, 1) if len(row) < 2)
        raise SourceError(f"line {short} of {file.name} names no file and class", HOW)
    header = [word.strip().casefold() for word in rows[0]]
    path = next((header.index(name) for name in PATH_COLUMNS if name in header), None)
    label = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    if path is None or label is None:
        path, label = 0, 1
    else:
        rows = rows[1:]
    return {row[path].strip(): _label(_first_class(row[label]), file) for row in rows if len(row) > max(path, label)}


def image_labels(labels: Labels, paths: Sequence[str], file: Path) -> list[str | None]:
    """The label of every image of a source, by its path, else by a file name (with or without ending) that is its own.

    Raises:
        SourceError: a list of another length, or a table that names none of the images.
    """
    if isinstance(labels, list):
        if len(labels) != len(paths):
            raise SourceError(f"{file.name} has {len(labels):,} labels for {len(paths):,} images", HOW)
        return list(labels)
    found: list[str | None] = [labels.get(path) for path in paths]
    for shorten in (posixpath.basename, _stem):
        own, theirs = _unique(paths, shorten), _unique(labels, shorten)
        for i, path in enumerate(paths):
            short = shorten(path)
            if found[i] is None and short in own and short in theirs:
                found[i] = labels[theirs[short]]
    if not any(label is not None for label in found):
        raise SourceError(f"{file.name} names none of the images, such as '{paths[0]}'", HOW)
    return found


def _rows(lines: list[str]) -> list[list[str]]:
    """Cells of every line: of a TSV, a CSV, or words of which the last is the class."""
    if any("\t" in line for line in lines[:1]):
        return [line.split("\t") for line in lines]
    if any("," in line for line in lines[:1]):
        return list(csv.reader(lines))
    return [line.strip().rsplit(None, 1) for line in lines]


def _first_class(cell: str) -> str:
    """A cell's class; Kaggle's hold an id and boxes after it, once or several times."""
    text = cell.strip()
    return (wordnet_id(text) if " " in text else None) or text


def _label(text: str, file: Path) -> str:
    if len(text) > LONGEST:
        raise SourceError(f"a class in {file.name} has more than {LONGEST:,} letters", HOW)
    return text


def _listed(labels: list[str], file: Path) -> list[str]:
    """One label a line; numbers are ILSVRC's and become WordNet ids."""
    if not all(label.isdecimal() for label in labels):
        return labels
    ids = _devkit_order(file)
    numbers = [int(label) for label in labels]
    if not all(1 <= number <= len(ids) for number in numbers):
        raise SourceError(f"{file.name} holds numbers beyond 1 to {len(ids):,}", HOW)
    return [ids[number - 1] for number in numbers]


def _devkit_order(file: Path) -> list[str]:
    """The WordNet ids of ILSVRC's classes in the order of its devkit: of meta.mat beside the file."""
    fact = f"{file.name} holds numbers alone, which ILSVRC counts from 1 in its devkit's own order"
    meta = file.with_name(DEVKIT)
    if not meta.is_file():
        raise SourceError(fact, f"Put the devkit's {DEVKIT} beside it, or give a table of file and WordNet id.")
    from scipy.io import loadmat

    try:
        synsets = loadmat(str(meta), squeeze_me=True)["synsets"]
        leaves = sorted(
            (int(row[0]), str(row[1])) for row in synsets if int(row[4]) == 0
        )  # id, WNID, ..., num_children
    except Exception as error:  # on a foreign file SciPy raises nearly anything
        raise SourceError(f"no readable synsets in {meta}", "Take it from ILSVRC's devkit.") from error
    return [wnid for _, wnid in leaves]


def _unique(names: Iterable[str], shorten: Callable[[str], str]) -> dict[str, str]:
    """Names by what is left of them, where that is one name's alone."""
    names = list(names)
    count = Counter(map(shorten, names))
    return {shorten(name): name for name in names if count[shorten(name)] == 1}


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]
