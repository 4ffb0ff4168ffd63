"""Labels of images as people's files bring them."""

from __future__ import annotations

from pathlib import Path

import pytest
from vitdex.data.labels.label_files import Labels, image_labels, read_labels
from vitdex.schemas.errors import SourceError

VAL = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 4)]


def written(tmp_path: Path, text: str, name: str = "labels.txt") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("path,label\na/0.jpg,hen\nb/1.jpg,owl\n", {"a/0.jpg": "hen", "b/1.jpg": "owl"}),
        ("id,Filename,Class\n7,0.jpg,hen\n", {"0.jpg": "hen"}),
        ('0.jpg,"tench, Tinca tinca"\n', {"0.jpg": "tench, Tinca tinca"}),
        ("0.jpg\tgreat white shark\n", {"0.jpg": "great white shark"}),
        ("val_0.JPEG\tn01443537\t0\t0\t1\t1\n", {"val_0.JPEG": "n01443537"}),  # Tiny ImageNet's
        ("a b.jpg 65\nc.jpg 970\n", {"a b.jpg": "65", "c.jpg": "970"}),  # Caffe's
        (
            "ImageId,PredictionString\nILSVRC2012_val_00000001,n01751748 111 108 230 366 n01751748 1 2 3 4\n",
            {"ILSVRC2012_val_00000001": "n01751748"},  # Kaggle's
        ),
        ("\N{BYTE ORDER MARK}path,label\nž.jpg,žába\n", {"ž.jpg": "žába"}),
        ("hen\nowl\n\n", ["hen", "owl"]),
        ("n01440764\nn01443537\n", ["n01440764", "n01443537"]),
    ],
)
def test_files_that_people_have(text: str, labels: Labels, tmp_path: Path) -> None:
    assert read_labels(written(tmp_path, text)) == labels


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (None, "no readable labels in"),
        (b"caf\xe9,1\n", "no readable labels in"),
        (b"", "holds no labels"),
        (b"\n \n", "holds no labels"),
        (b"a.jpg,hen\nb.jpg\n", "line 2 of labels.txt names no file and class"),
        (b"490\n361\n171\n", "numbers alone, which ILSVRC counts from 1 in its devkit's own order"),
    ],
)
def test_files_that_tell_no_labels(content: bytes | None, fact: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SourceError, match=fact):
        read_labels(file)


def test_ilsvrcs_numbers_are_the_devkits(tmp_path: Path) -> None:
    import numpy as np
    from scipy.io import savemat

    kinds = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
    ]
    synsets = np.array(
        [(1, "n02119789", "kit fox", "", 0), (2, "n02100735", "setter", "", 0), (3, "n00001740", "entity", "", 2)],
        kinds,
    )
    savemat(tmp_path / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    assert read_labels(written(tmp_path, "2\n1\n2\n")) == ["n02100735", "n02119789", "n02100735"]
    with pytest.raises(SourceError, match="numbers beyond 1 to 2"):
        read_labels(written(tmp_path, "0\n1\n"))


def test_images_are_found_by_path_else_by_a_name_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    assert image_labels({f"val/{VAL[0]}": "a", VAL[1]: "b", "ILSVRC2012_val_00000003": "c"}, VAL, file) == [
        "a",
        "b",
        "c",
    ]
    twice = ["x/0.jpg", "y/0.jpg", "z/1.jpg"]
    assert image_labels({"0.jpg": "a", "1.png": "b"}, twice, file) == [None, None, "b"]  # 0.jpg is two files
    assert image_labels({"y/0.jpg": "a"}, twice, file) == [None, "a", None]
    assert image_labels(["a", "b", "c"], VAL, file) == ["a", "b", "c"]
    with pytest.raises(SourceError, match=r"labels\.csv has 2 labels for 3 images"):
        image_labels(["a", "b"], VAL, file)
    with pytest.raises(SourceError, match=r"labels\.csv names none of the images, such as 'ILSVRC2012_val_00000001"):
        image_labels({"other.jpg": "a"}, VAL, file)
