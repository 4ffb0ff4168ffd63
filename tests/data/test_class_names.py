"""What a head's rows are called, and which row an image's label is: by evidence, never by a guess."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vitdex.data.images.entries import class_folders
from vitdex.data.labels.class_names import ClassNames, imagenet_names, model_names, name_rows, natural_order
from vitdex.data.labels.image_labels import image_classes, label_rows, matched_text, without_class
from vitdex.data.labels.imagenet import LISTS, ids_by_name, ids_by_place, tag_says_imagenet, timm_list
from vitdex.data.labels.label_files import parse_names, read_names
from vitdex.indexer.tables.class_order import Accuracy, accuracy, settled_order
from vitdex.schemas.errors import ModelError

OWN = ClassNames(("hen", "owl"), None, "the model's config")
FOLDERS = ["ant", "bee"]
ONE_K = timm_list("imagenet-1k")
FIRST = [names[0] for names in ONE_K.synonyms]
TEXTS = [", ".join(names) for names in ONE_K.synonyms]


def named(*names: str, wnids: tuple[str | None, ...] | None = None) -> ClassNames:
    return ClassNames(names, wnids, "a test")


def test_a_file_goes_before_the_models_own_names(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("\N{BYTE ORDER MARK}one\n\n  two \n".encode())
    assert name_rows(2, FOLDERS, OWN, str(file)) == (ClassNames(("one", "two"), None, "names.txt"), [])
    assert name_rows(0, FOLDERS, None, file) == (ClassNames(("one", "two"), None, "names.txt"), [])
    with pytest.raises(ModelError, match=r"names\.txt names 2 classes, the head has 3"):
        name_rows(3, FOLDERS, OWN, file)


def test_one_of_timms_lists_may_be_given_by_name() -> None:
    classes, _ = name_rows(1000, FOLDERS, None, "imagenet-1k")
    assert classes == imagenet_names("imagenet-1k")
    with pytest.raises(ModelError, match="imagenet-1k names 1,000 classes, the head has 12"):
        name_rows(12, FOLDERS, None, "imagenet-1k")


def test_own_names_go_before_the_data_sets_and_those_before_folders() -> None:
    assert name_rows(2, FOLDERS, OWN, None, ["bee", "ant"]) == (OWN, [])
    classes, _ = name_rows(2, FOLDERS, None, None, ["bee", "ant"])
    assert classes == ClassNames(("bee", "ant"), None, "the data set's own list")
    classes, _ = name_rows(3, FOLDERS, None, None, ["bee", "ant"])  # not as many as the rows
    assert classes is not None
    assert classes.origin == "numbers"


@pytest.mark.parametrize(
    ("rows", "folders", "names", "origin", "note"),
    [
        (0, ["ant", "bee"], ("ant", "bee"), "folders", "the model has no head: classes are the images' labels"),
        (2, ["ant", "bee"], ("ant", "bee"), "folders by sorted position", "taken for the folders in sorted order"),
        (3, ["ant", "bee"], ("0", "1", "2"), "numbers", "its 3 rows are called by their numbers"),
    ],
)
def test_without_names_folders_are_taken_and_it_is_said(
    rows: int, folders: list[str], names: tuple[str, ...], origin: str, note: str
) -> None:
    classes, notes = name_rows(rows, folders)
    assert classes == ClassNames(names, None, origin)
    assert len(notes) == 1
    assert note in notes[0]


def test_neither_head_nor_folders_are_no_classes() -> None:
    assert name_rows(0, []) == (None, [])


@pytest.mark.parametrize("content", [None, b"caf\xe9\n"])
def test_names_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=r"no readable class names in .*names\.txt\. Give one name a line"):
        read_names(file)


@pytest.mark.parametrize("text", ["{}", "3", "[1, 2", '"ab"', "null", "[" * 100_000])
def test_a_heads_names_are_a_list(text: str) -> None:
    with pytest.raises(ModelError, match=r"the class names in head\.safetensors are not a JSON list"):
        parse_names(text, 2, Path("in/head.safetensors"))


def test_a_heads_names_are_one_a_row() -> None:
    assert parse_names('["a", "2"]', 2, Path("head.safetensors")) == ("a", "2")
    with pytest.raises(ModelError, match=r"head\.safetensors names 1 classes for 2 rows"):
        parse_names('["a"]', 2, Path("head.safetensors"))


# ImageNet or not


@pytest.mark.parametrize(
    "labels",
    [
        ["n01440764", "n01443537"],
        ["tench, Tinca tinca", "goldfish, Carassius auratus"],
        ["Goldfish", "great_white_shark"],
        ["n02085620-Chihuahua", "n02085782-Japanese_spaniel"],
    ],
)
def test_labels_of_imagenet_name_a_head_of_its_size(labels: list[str]) -> None:
    classes, notes = name_rows(1000, labels)
    assert classes == imagenet_names("imagenet-1k")
    assert "those of imagenet-1k" in notes[0]
    assert None not in label_rows(labels, classes).values()
    assert len(label_rows(labels, classes)) == len(labels)
    assert name_rows(999, labels)[0] != classes


def test_a_head_of_a_thousand_classes_of_ones_own_is_not_imagenets() -> None:
    people = [f"person_{i:04d}" for i in range(1000)]
    assert name_rows(1000, people)[0] == ClassNames(tuple(people), None, "folders by sorted position")
    classes, notes = name_rows(1000, [*FIRST[:5], "my aunt"])
    assert classes is not None
    assert classes.origin == "numbers"
    assert "--class-names imagenet-1k" in notes[0]


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("augreg_in21k_ft_in1k", True),
        ("r160_in1k", True),
        ("in22k_ft_in22k_in1k", True),
        ("in21k", True),
        ("lvd142m", False),
        ("mine", False),
        ("begin1kilo", False),
        ("", False),
        (None, False),
        (3, False),
    ],
)
def test_what_a_tag_says(tag: object, said: bool) -> None:
    assert tag_says_imagenet(tag) is said


def test_names_that_a_model_brings() -> None:
    assert model_names(2, {"label_names": ["hen", "owl"]}) == ClassNames(
        ("hen", "owl"), None, "the model's config", ((), ())
    )
    assert model_names(3, {"label_names": ["hen", "owl"]}) is None
    for config in ({"labels": ["hen", "owl"]}, {"id2label": {"1": "owl", "0": "hen"}}):
        found = model_names(2, config)
        assert found is not None
        assert found.names == ("hen", "owl")
    assert model_names(2, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}) is None  # transformers' filling
    assert model_names(1000, {}) is None
    imagenet = model_names(1000, {}, imagenet=True)
    assert imagenet is not None
    assert (imagenet.names[1], imagenet.origin) == ("goldfish", "timm's imagenet-1k")
    assert imagenet.wnids is not None
    assert imagenet.wnids[1] == "n01443537"
    assert len(set(imagenet.names)) == 1000  # two cranes and two maillots are told apart by their ids


def test_a_config_may_name_its_rows_by_wordnet_ids_and_describe_them() -> None:
    config = {"label_names": ["n01443537", "n01440764"], "label_descriptions": {"n01440764": "tench, Tinca tinca"}}
    found = model_names(2, config)
    assert found is not None
    assert found.names == ("goldfish", "tench")
    assert label_rows(["n01440764", "goldfish", "tench, Tinca tinca"], found) == {
        "n01440764": 1,
        "goldfish": 0,
        "tench, Tinca tinca": 1,
    }


@pytest.mark.parametrize("names", [FIRST, TEXTS, [*FIRST[:600], *(f"clip's own {i}" for i in range(400))]])
def test_names_in_imagenets_order_bring_its_ids(names: list[str]) -> None:
    assert ids_by_place(names) == ONE_K.wnids
    classes, _ = name_rows(1000, [], named(*names))
    assert classes is not None
    assert classes.wnids == ONE_K.wnids


def test_a_row_that_is_called_as_another_one_has_no_id() -> None:
    swapped = [*FIRST]
    swapped[0], swapped[1] = swapped[1], swapped[0]
    ids = ids_by_place(swapped)
    assert ids is not None
    assert ids[:3] == (None, None, ONE_K.wnids[2])
    assert ids_by_place(FIRST[::-1]) is None
    assert ids_by_place(FIRST[:10]) is None


def test_names_in_another_order_bring_ids_where_the_labels_are_ids() -> None:
    assert ids_by_name(["goldfish", "tench", "hen"]) == ("n01443537", "n01440764", "n01514859")
    assert ids_by_name(["crane", "tench"]) is None  # two classes are called crane
    assert ids_by_name(["goldfish", "my aunt"]) is None
    assert ids_by_name([]) is None
    for labels, ids in ((["n01440764"], ("n01443537", "n01440764")), (["tench"], None)):
        classes, _ = name_rows(2, labels, named("goldfish", "tench"))
        assert classes is not None
        assert classes.wnids == ids


def test_the_sizes_of_timms_lists() -> None:
    for name in ("imagenet-1k", "imagenet-12k", "imagenet-21k-miil"):
        assert len(timm_list(name).wnids) == LISTS[name]


# Which row a label is


def test_labels_find_their_row_by_name_then_wordnet_id_then_without_case() -> None:
    names = named("n02", "Red_Fox", "owl", "barn owl", wnids=("n00000001", "n00000002", "n00000003", None))
    labels = ["n02", "n00000002", "red fox", "RED_FOX ", "owl", "stranger", "n00000009"]
    rows = label_rows(labels, names)
    assert rows == {"n02": 0, "n00000002": 1, "owl": 2}  # two labels differ by case alone: neither is the name
    assert label_rows(["red fox"], names) == {"red fox": 1}
    assert image_classes(["owl", None, "stranger"], rows).tolist() == [2, -1, -1]
    assert label_rows(labels, None) == {}
    assert image_classes([], {}).tolist() == []


@pytest.mark.parametrize(
    ("label", "row"),
    [
        ("žába", 0),  # the accents' other encoding
        ("ŽÁBA", 0),
        ("  great   white_shark ", 1),
        ("owl", None),  # two rows
        ("Owl", 3),  # as written goes before without case
        ("shark, great white shark", 1),  # one of its parts is a name
        ("shark, whale", None),
    ],
)
def test_texts_that_people_write_in_several_ways(label: str, row: int | None) -> None:
    names = named("žába", "Great White Shark", "owl", "Owl", "owl")
    assert label_rows([label], names).get(label) == row


def test_exact_names_go_before_those_without_case() -> None:
    names = named("Cardigan", "cardigan")
    assert label_rows(["cardigan", "Cardigan"], names) == {"cardigan": 1, "Cardigan": 0}
    assert label_rows(["CARDIGAN"], names) == {}
    assert label_rows(["Cardigan", "cardigan"], named("CARDIGAN")) == {}


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        (["0", "7", "11"], {"0": 0, "7": 7, "11": 11}),
        (["000", "007"], {"000": 0, "007": 7}),
        (["0", "12"], {}),  # beyond the head
        (["0", "cat"], {}),
        (["-1", "0"], {}),
        (["1.0"], {}),
    ],
)
def test_numbers_are_rows_where_all_labels_are(labels: list[str], rows: dict[str, int]) -> None:
    assert label_rows(labels, named(*"abcdefghijkl")) == rows


def test_a_name_that_is_a_number_goes_before_the_number() -> None:
    names = named("2", "0", "1")
    assert label_rows(["0", "1", "2"], names) == {"0": 1, "1": 2, "2": 0}


def test_what_has_no_class_is_said() -> None:
    labels = ["a", "a", "b", None, *["many"] * 9, *(f"c{i}" for i in range(12))]
    assert matched_text(labels, {"a": 0}) == "2 of 25 images have a class"
    first, second = without_class(labels, {"a": 0})
    assert first.startswith("14 labels are none of the classes, or several: 'many' (9), 'b' (1), 'c0' (1)")
    assert " and 4 more. Give labels with --labels" in first
    assert second.startswith("1 image has no label")
    assert without_class(["a"], {"a": 0}) == []


WORDS = st.text("aAbBzž0189_ ", min_size=1, max_size=6).filter(lambda s: s.strip())


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=12, unique=True), st.randoms(use_true_random=False))
def test_no_label_is_ever_counted_for_a_wrong_row(classes: list[str], dice: random.Random) -> None:
    """A head that names all classes in an order of its own: each label is its own name's row, or none."""
    order = classes[:]
    dice.shuffle(order)
    assert label_rows(classes, named(*order)) == {name: row for row, name in enumerate(order)}
    shown = dice.sample(classes, dice.randint(1, len(classes)))
    for written in (str.upper, str.lower, lambda s: s.replace("_", " "), lambda s: f" {s} "):
        labels = [written(name) for name in shown]
        for label, row in label_rows(labels, named(*order)).items():
            assert order[row] == label or written(order[row]) == label or not any(written(n) == label for n in order)


# The order of rows that nobody names


@pytest.mark.parametrize(
    ("labels", "natural"),
    [
        (["class10", "class2"], ("class2", "class10")),
        (["b", "A", "c"], ("A", "b", "c")),
        (["10", "2", "1"], ("1", "2", "10")),
        (["v1.10", "v1.9", "V1.2"], ("V1.2", "v1.9", "v1.10")),
        (["a", "1"], ("1", "a")),
    ],
)
def test_timms_order_of_folders(labels: list[str], natural: tuple[str, ...]) -> None:
    assert natural_order(labels) == natural


def test_timms_order_is_timms(tmp_path: Path) -> None:
    from timm.data.readers.reader_image_folder import find_images_and_targets

    labels = ["class10", "class2", "Class3", "b", "A", "10", "9", "x_1_20", "x_1_3"]
    for label in labels:
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.jpg").write_bytes(b"")
    _, numbers = find_images_and_targets(str(tmp_path))
    assert tuple(sorted(numbers, key=lambda label: numbers[label])) == natural_order(labels)


def test_the_models_answers_decide_between_two_orders_of_folders() -> None:
    labels = [f"class{i}" for i in range(12)]
    names, notes = name_rows(12, labels)
    assert names is not None
    assert names.natural == tuple(labels)
    assert "as torchvision sorts, or as timm does" in notes[0]
    images = [label for label in labels for _ in range(5)]
    for order, said in ((tuple(labels), "timm's is taken"), (names.names, "torchvision's is taken")):
        answers = np.array([order.index(label) for label in images])
        kept, rows, note = settled_order(names, label_rows(labels, names), list(images), answers)
        assert kept.names == order
        assert kept.natural is None
        assert said in note
        assert rows == {label: order.index(label) for label in labels}
    kept, _, note = settled_order(names, label_rows(labels, names), list(images), np.zeros(60, np.int64))
    assert kept.names == names.names
    assert "that tells nothing" in note


# How often the model is right


def test_accuracy_is_a_direct_count() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(400, 12)).astype(np.float32)
    labels = random.integers(-1, 12, 400)
    logits[np.arange(400), labels] += 1.5
    places = (logits > logits[np.arange(400), labels, None]).sum(1)
    found = accuracy(logits.argmax(1), places, labels, 12)
    assert found is not None
    asked = [i for i in range(400) if labels[i] >= 0]
    order = np.argsort(-logits, 1)
    assert found.images == len(asked)
    assert found.top1 == pytest.approx(np.mean([order[i, 0] == labels[i] for i in asked]))
    assert found.top5 == pytest.approx(np.mean([labels[i] in order[i, :5] for i in asked]))
    dealt = np.mean([order[i, 0] == labels[j] for i in asked for j in asked])
    assert found.chance == pytest.approx(dealt)
    assert accuracy(logits.argmax(1), places, np.full(400, -1), 12) is None


@pytest.mark.parametrize(
    ("images", "top1", "chance", "warns"),
    [
        (480, 0.07, 0.083, True),
        (480, 0.15, 0.083, False),
        (4, 1.0, 0.5, False),
        (4, 0.25, 0.5, False),
        (50, 1, 1, False),
    ],
)
def test_near_chance_is_said_where_the_images_can_tell(images: int, top1: float, chance: float, warns: bool) -> None:
    assert (Accuracy(images, top1, None, chance).warning is not None) is warns


# Folders around classes


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["a/0.jpg", "b/sub/1.jpg", "2.jpg"], ["a", "b", None]),
        (["train/a/0.jpg", "val/a/1.jpg", "val/b/2.jpg"], ["a", "a", "b"]),
        (["val/images/0.jpg", "val/images/1.jpg"], [None, None]),
        (["train/images/a/0.jpg", "Test/images/b/1.jpg"], ["a", "b"]),
        (["test/0.jpg", "coin/1.jpg"], ["test", "coin"]),  # a class that is called test
        (["ILSVRC/Data/CLS-LOC/val/n01/0.jpg", "ILSVRC/Data/CLS-LOC/val/n02/0.jpg"], ["n01", "n02"]),
        (["coin/0.jpg", "coin/deep/1.jpg"], ["coin", "coin"]),
        (["coin/new/0.jpg", "1.jpg"], ["coin", None]),
        ([], []),
    ],
)
def test_class_folders(paths: list[str], labels: list[str | None]) -> None:
    assert class_folders(paths) == labels
