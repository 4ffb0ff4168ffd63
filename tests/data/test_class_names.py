"""What a head's rows are called, and which class an image's folder is."""

from __future__ import annotations

from pathlib import Path

import pytest
from vitdex.data.labels.class_names import ClassNames, image_classes, model_names, name_rows
from vitdex.data.labels.label_files import parse_names, read_names
from vitdex.schemas.errors import ModelError

OWN = ClassNames(("hen", "owl"), None, "the model's config")
FOLDERS = ["ant", "bee"]


def test_a_file_goes_before_the_models_own_names(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("one\n\n  two \n")
    assert name_rows(2, FOLDERS, OWN, str(file)) == (ClassNames(("one", "two"), None, "names.txt"), [])
    assert name_rows(0, FOLDERS, None, file) == (ClassNames(("one", "two"), None, "names.txt"), [])
    with pytest.raises(ModelError, match=r"names\.txt names 2 classes, the head has 3"):
        name_rows(3, FOLDERS, OWN, file)


def test_own_names_go_before_folders() -> None:
    assert name_rows(2, FOLDERS, OWN, None) == (OWN, [])


@pytest.mark.parametrize(
    ("rows", "folders", "names", "origin", "note"),
    [
        (0, ["ant", "bee"], ("ant", "bee"), "folders", "the model has no head: classes are the image folders"),
        (2, ["ant", "bee"], ("ant", "bee"), "folders by sorted position", "taken for the folders in sorted order"),
        (3, ["ant", "bee"], ("0", "1", "2"), "numbers", "has 3, not 2: images have none"),
    ],
)
def test_without_names_folders_are_taken_and_it_is_said(
    rows: int, folders: list[str], names: tuple[str, ...], origin: str, note: str
) -> None:
    found, notes = name_rows(rows, folders, None, None)
    assert found == ClassNames(names, None, origin)
    assert len(notes) == 1
    assert note in notes[0]


def test_neither_head_nor_folders_are_no_classes() -> None:
    assert name_rows(0, [], None, None) == (None, [])


@pytest.mark.parametrize("content", [None, b"caf\xe9\n"])
def test_names_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=r"no readable class names in .*names\.txt\. Give one name a line"):
        read_names(file)


@pytest.mark.parametrize("text", ["{}", "3", "[1, 2", '"ab"', "null"])
def test_a_heads_names_are_a_list(text: str) -> None:
    with pytest.raises(ModelError, match=r"the class names in head\.safetensors are not a JSON list"):
        parse_names(text, 2, Path("in/head.safetensors"))


def test_a_heads_names_are_one_a_row() -> None:
    assert parse_names('["a", 2]', 2, Path("head.safetensors")) == ("a", "2")
    with pytest.raises(ModelError, match=r"head\.safetensors names 1 classes for 2 rows"):
        parse_names('["a"]', 2, Path("head.safetensors"))


def test_images_find_their_class_by_wordnet_id_then_by_name() -> None:
    names = ClassNames(("n02", "Red_Fox", "owl", "owl"), ("n01", "n02", "n03", "n04"), "somewhere")
    folders = ["n01", "n02", "red fox", "RED_FOX ", "owl", "stranger", None]
    assert image_classes(folders, names).tolist() == [0, 1, 1, 1, 2, -1, -1]
    assert image_classes(folders, None).tolist() == [-1] * 7
    assert image_classes([], names).tolist() == []


def test_names_that_a_model_brings() -> None:
    assert model_names(2, ["hen", "owl"]) == OWN
    assert model_names(3, ["hen", "owl"]) is None
    imagenet = model_names(1000, None)
    assert imagenet is not None
    assert (imagenet.names[1], imagenet.origin) == ("goldfish", "timm's imagenet-1k")
    assert imagenet.wnids is not None
    assert imagenet.wnids[1] == "n01443537"
    assert len(set(imagenet.names)) == 1000  # two cranes and two maillots are told apart by their ids
