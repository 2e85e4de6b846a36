"""The layouts of public data, in files written by what defines their formats; and what is wrong with an index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygseg.config.episodes import EpisodeProtocol
from raygseg.data.episodes.draws import draw_episodes
from raygseg.data.episodes.folds import fold_classes
from raygseg.data.episodes.sources import read_class_index
from raygseg.data.episodes.training import evaluation_index, training_index
from raygseg.data.preparation.voc import CLASSES, voc_labels
from raygseg.errors import DataError
from tests.unit.data.episodes.sets import write_index


def photo(place: Path, height: int = 12, width: int = 16) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(place)


def classes_map(*squares: tuple[int, int]) -> np.ndarray:
    """[12, 16] with class c in a 3 x 3 square at column 4 i, row r for each (c, r); a void line at the bottom."""
    found = np.zeros((12, 16), np.uint8)
    for i, (c, row) in enumerate(squares):
        found[row : row + 3, 4 * i : 4 * i + 3] = c
    found[-1] = 255
    return found


def voc_folder(place: Path) -> Path:
    names = {"2007_000001": classes_map((8, 0), (15, 2)), "2007_000002": classes_map((12, 1)),
             "2007_000003": classes_map((8, 3))}  # fmt: skip
    palette = [value for colour in voc_labels().palette for value in colour]
    for name, class_map in names.items():
        photo(place / f"JPEGImages/{name}.jpg")
        image = Image.fromarray(class_map)
        image.putpalette(palette + [224] * (768 - len(palette)))
        (place / "SegmentationClass").mkdir(exist_ok=True)
        image.save(place / f"SegmentationClass/{name}.png")
    lists = place / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000001\n2007_000002\n")
    (lists / "val.txt").write_text("2007_000003\n")
    return place


def sbd_folder(place: Path, scipy_io: object) -> Path:
    for name, class_map in {"2008_000009": classes_map((8, 1)), "2007_000001": classes_map((1, 1))}.items():
        photo(place / f"dataset/img/{name}.jpg")
        (place / "dataset/cls").mkdir(parents=True, exist_ok=True)
        boundaries = np.zeros((20, 1), object)
        document = {"GTcls": {"Segmentation": class_map, "CategoriesPresent": np.array([8]), "Boundaries": boundaries}}
        scipy_io.savemat(place / f"dataset/cls/{name}.mat", document)  # type: ignore[attr-defined]
    return place


def shown(index: object, name: str) -> list[str]:
    return [Path(index.pictures.names[p]).stem for p in index.members[index.position(name)]]  # type: ignore[attr-defined]


def test_voc_with_sbd_trains_on_what_is_not_val(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    voc, sbd = voc_folder(tmp_path / "VOC2012"), sbd_folder(tmp_path / "SBD", scipy_io)
    index = read_class_index(f"{voc}?sbd={sbd}")
    assert index.classes == CLASSES[1:]
    assert shown(index, "cat") == ["2007_000001", "2007_000003", "2008_000009"]
    assert shown(index, "aeroplane") == [], "a picture that VOC has is not taken from SBD too"
    assert shown(index, "person") == ["2007_000001"] and shown(index, "dog") == ["2007_000002"]
    cats = index.pixels[index.position("cat")].tolist()
    assert cats == [9, 9, 9]
    fair = EpisodeProtocol()
    assert shown(evaluation_index(index, fair), "cat") == ["2007_000003"]
    assert shown(training_index(index, 0, fair), "cat") == ["2007_000001", "2008_000009"]
    assert fold_classes(index, 1, "test") == ("cat",)
    row = list(index.members[index.position("cat")])[-1]
    assert set(np.unique(index.way_map(int(row), (index.position("cat"),)))) == {0, 1, 255}
    assert index.pictures.picture(int(row)).shape == (12, 16, 3)


def test_sbd_alone_is_a_source(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    index = read_class_index(str(sbd_folder(tmp_path, scipy_io)))
    assert shown(index, "cat") == ["2008_000009"] and shown(index, "aeroplane") == ["2007_000001"]
    assert index.test is None


def test_coco_gives_one_label_map_in_which_the_smaller_instance_wins(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    photo(tmp_path / "train2014/a.jpg")
    photo(tmp_path / "train2014/b.jpg")
    table, cup = np.zeros((12, 16), np.uint8), np.zeros((12, 16), np.uint8)
    table[2:10, 2:14], cup[4:6, 4:7] = 1, 1
    packed = coco.encode(np.asfortranarray(table))
    shapes = [
        {"image_id": 1, "category_id": 47, "segmentation": [[4, 4, 7, 4, 7, 6, 4, 6]], "area": 6.0},
        {"image_id": 1, "category_id": 67, "area": 96.0,
         "segmentation": {"size": [12, 16], "counts": packed["counts"].decode()}},
        {"image_id": 2, "category_id": 47, "area": 6.0,
         "segmentation": {"size": [12, 16], "counts": coco.encode(np.asfortranarray(cup))["counts"].decode()}},
    ]  # fmt: skip
    document = {
        "images": [{"id": i, "file_name": f"{n}.jpg", "height": 12, "width": 16} for i, n in ((1, "a"), (2, "b"))],
        "categories": [{"id": 67, "name": "dining table"}, {"id": 47, "name": "cup"}],
        "annotations": [{"id": i, "iscrowd": 0, **shape} for i, shape in enumerate(shapes)],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    index = read_class_index(f"{tmp_path}/train2014?annotations={tmp_path}/instances.json")
    assert index.classes == ("cup", "dining table"), "in the order of the categories' numbers"
    assert index.counts() == {"cup": 2, "dining table": 1}
    both = index.way_map(0, (1, 0))
    assert (both == np.where(cup == 1, 2, table)).all(), "the query is labelled with all ways, the cup on the table"
    assert index.pixels[1].tolist() == [96 - 6]


def test_a_labelled_folder_reads_its_void_and_its_test_split(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2), ("c", 1)):
        photo(tmp_path / f"images/{name}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask = np.full((12, 16), value, np.uint8)
        mask[0], mask[1] = 9, 0
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
    (tmp_path / "labels.json").write_text(json.dumps({"classes": ["background", "wing", "tail"], "void": 9}))
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["a"], "test": ["b", "c"]}))
    index = read_class_index(str(tmp_path))
    assert index.classes == ("wing", "tail") and index.counts() == {"wing": 2, "tail": 1}
    assert index.test == {1, 2} and shown(evaluation_index(index, EpisodeProtocol()), "wing") == ["c"]
    assert set(np.unique(index.way_map(0, (0,)))) == {0, 1, 255}
    (tmp_path / "masks/b.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 files cannot be used.*mask missing"):
        read_class_index(str(tmp_path))
    assert [name for name, _ in read_class_index(str(tmp_path), max_bad_fraction=0.5).skipped] == ["images/b.png"]


def entry(number: int, value: object, group: str = "x") -> dict[str, object]:
    return {"image": f"{group}/images/{number}.png", "mask": f"{group}/masks/{number}.png", "value": value}


def test_an_index_file_keeps_sets_apart(tmp_path: Path) -> None:
    entries = {"x/wing": [entry(1, 3), entry(2, 3)], "x/tail": [entry(2, 4)], "y/wing": [entry(1, 4, "y")]}
    folder = write_index(tmp_path, entries, folds=[["x/wing"], ["x/tail", "y/wing"]], ignore_index=255)
    index = read_class_index(str(folder))
    assert index.counts() == {"x/wing": 2, "x/tail": 1, "y/wing": 1} and len(index) == 3
    assert (index.way_map(2, (1, 2)) > 0).sum() == 6, "value 4 is y's wing there"
    assert (index.way_map(2, (1,)) > 0).sum() == 0, "and not x's tail"
    assert fold_classes(index, 1, "test") == ("x/tail", "y/wing")
    moved = tmp_path / "elsewhere"
    again = read_class_index(
        str(write_index(moved.mkdir() or moved, entries, folds=[["x/wing"], ["x/tail", "y/wing"]]))
    )
    assert again.fingerprint == index.fingerprint, "where it lies does not matter"
    assert len(draw_episodes(index, ("x/wing",), 1, 1, 1, 3, 0, 0, 0)) == 3


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"c": [{"image": "a.png", "value": 1}]}, r"c, entry 0: KeyError\('mask'\)"),
        ({"c": [entry(1, 255)]}, "c, entry 0: value 255"),
        ({"c": [entry(1, "one")]}, "c, entry 0: ValueError"),
        ({"c": [{"image": "../a.png", "mask": "m.png", "value": 1}]}, "leads out of the data"),
        ({"c": [entry(1, 1)], "d": [{**entry(1, 2), "mask": "x/masks/2.png"}]}, "was mask x/masks/1.png before"),
        ({"c": [entry(1, 1), entry(2, 2)]}, "was value 1 before"),
        ({}, "no object 'classes'"),
    ],
)
def test_a_wrong_index_says_where(tmp_path: Path, entries: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_class_index(str(write_index(tmp_path, entries)))


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    with pytest.raises(DataError, match="pictures without masks"):
        read_class_index(str(tmp_path))
    with pytest.raises(DataError, match="unknown key 'mask'"):
        read_class_index(f"{tmp_path}?mask=x")
    with pytest.raises(DataError, match="no such folder"):
        read_class_index(str(tmp_path / "none"))
    folder = write_index(tmp_path, {"c": [entry(1, 1), entry(2, 1)]})
    (tmp_path / "x/images/2.png").unlink()
    index = read_class_index(str(folder))
    with pytest.raises(DataError, match=r"x/images/2\.png: unreadable"):
        index.pictures.picture(1)


def test_the_real_index_has_its_folds(real_data: Path) -> None:
    index = read_class_index(str(real_data / "fewshot"))
    assert len(index.classes) == 70 and len(index) == 3219 and [len(fold) for fold in index.folds] == [18, 18, 17, 17]
    test = evaluation_index(index, EpisodeProtocol())
    assert min(test.counts().values()) >= 6, "5 shots and a query of every class"
    picture = int(index.members[index.position("cars/wheel")][0])
    assert (index.way_map(picture, (index.position("cars/wheel"),)) == 1).any()
