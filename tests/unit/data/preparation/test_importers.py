"""Small data sets in the layouts of the large ones, written by what defines their formats."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygseg.data.picture_files import encode_png
from raygseg.data.preparation.celebamask import PAINTED, TASKS, merge_parts
from raygseg.data.preparation.layouts import open_listing
from raygseg.data.preparation.making import Made, Maker
from raygseg.data.preparation.settings import PreparationSettings
from raygseg.data.preparation.voc import voc_colour, voc_labels
from raygseg.data.toy import render_toy
from raygseg.errors import ConfigError, DataError, MissingEnvironmentError


def picture(index: int, height: int, width: int) -> Image.Image:
    return Image.fromarray(render_toy(0, index, max(height, width))[0][:height, :width])


def save(place: Path, image: Image.Image) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    image.save(place)


def make(folder: Path, resolution: int = 32, fit: str = "squash", **options: Any) -> dict[str, Made]:
    labels = options.pop("labels", "")
    settings = PreparationSettings(resolution, fit, min_side=8, **options)
    listing = open_listing(str(folder), settings, "", labels)
    assert listing.annotations is not None
    maker = Maker(listing, settings, listing.annotations.labels)
    return {item.name: maker(item) for item in listing.items}


def class_map(made: Made, row: int = 0) -> np.ndarray:
    content = made.rows[row].mask
    assert content is not None
    return np.asarray(Image.open(io.BytesIO(content)))


def kinds(made: Made) -> list[str]:
    return [finding.kind for finding in made.findings]


def part(*boxes: tuple[int, int, int, int], side: int = 32) -> np.ndarray:
    """White boxes (left, top, right, bottom) on black."""
    canvas = np.zeros((side, side), np.uint8)
    for left, top, right, bottom in boxes:
        canvas[top:bottom, left:right] = 255
    return canvas


FACE = {
    "skin": part((4, 8, 28, 30)), "hair": part((2, 0, 30, 12)), "nose": part((14, 16, 18, 22)),
    "l_eye": part((8, 14, 12, 16)), "r_eye": part((20, 14, 24, 16)), "l_brow": part((8, 10, 12, 13)),
    "mouth": part((12, 24, 20, 26)), "u_lip": part((12, 23, 20, 24)), "hat": part((2, 0, 30, 4)),
    "cloth": part((0, 28, 32, 32)), "neck": part((10, 27, 22, 32)),
}  # fmt: skip


def test_celebamask_parts_merge_by_the_stated_order(tmp_path: Path) -> None:
    save(tmp_path / "CelebA-HQ-img/0.jpg", picture(0, 64, 64))
    save(tmp_path / "CelebA-HQ-img/2001.jpg", picture(1, 64, 64))
    save(tmp_path / "CelebA-HQ-img/5.jpg", picture(2, 64, 64))
    for name, mask in FACE.items():
        save(tmp_path / f"CelebAMask-HQ-mask-anno/0/00000_{name}.png", Image.fromarray(mask))
        save(tmp_path / f"CelebAMask-HQ-mask-anno/1/02001_{name}.png", Image.fromarray(mask).convert("RGB"))
    save(tmp_path / "CelebAMask-HQ-mask-anno/0/00009_skin.png", Image.fromarray(FACE["skin"]))
    made = make(tmp_path, layout="celebamask-hq", task="faces-10")
    found = class_map(made["0.jpg"])
    names = ("background", "hair", "eyebrow", "eye", "lip", "nose", "skin", "ear", "neck", "clothes")
    at = {name: i for i, name in enumerate(names)}
    assert found[10, 9] == at["hair"]  # over the brow and the skin, since hair is first
    assert found[12, 9] == at["eyebrow"] and found[14, 9] == at["eye"] and found[18, 15] == at["nose"]  # over the skin
    assert found[23, 13] == at["lip"] and found[25, 13] == at["lip"] and found[26, 5] == at["skin"]
    assert found[29, 5] == at["skin"] and found[31, 15] == at["neck"] and found[31, 2] == at["clothes"]
    assert (found == class_map(made["2001.jpg"])).all()
    assert kinds(made["5.jpg"]) == ["mask missing"]
    listing = open_listing(str(tmp_path), PreparationSettings(32, layout="celebamask-hq"))
    assert [f.kind for f in listing.left_out] == ["mask without picture"]
    assert listing.annotations is not None and listing.annotations.labels.names == names
    three = class_map(make(tmp_path, layout="celebamask-hq", task="faces-3")["0.jpg"])
    assert set(np.unique(three)) == {0, 1, 2, 3} and three[10, 9] == 0 and three[18, 15] == 3


def test_all_celebamask_parts_are_painted_over_one_another() -> None:
    """As the data set's own script does: later parts have the pixel."""
    task = TASKS["faces-19"]
    found = merge_parts(FACE, task)
    canvas = np.zeros((32, 32), int)
    for index, name in enumerate(PAINTED, start=1):
        if name in FACE:
            canvas[FACE[name] > 0] = index
    assert (found == canvas).all()
    grey = {"skin": np.full((4, 4), 101, np.uint8), "nose": np.full((2, 2), 103, np.uint8)}
    assert (merge_parts(grey, task) == PAINTED.index("nose") + 1).all()  # 0.4 of white is 102
    with pytest.raises(ConfigError, match="faces-10"):
        open_listing("nowhere", PreparationSettings(32, layout="celebamask-hq", task="faces-11"))


def matlab_object(name: str, mask: np.ndarray, parts: dict[str, np.ndarray]) -> dict[str, Any]:
    kind = [("part_name", object), ("mask", object)]
    rows = np.empty((1, len(parts)), dtype=kind)
    for i, (part_name, part_mask) in enumerate(parts.items()):
        rows[0, i] = (part_name, part_mask)
    return {"class": name, "class_ind": 7, "mask": mask, "parts": rows if parts else np.empty((0, 0))}


def write_anno(place: Path, objects: list[dict[str, Any]]) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    kind = [("class", object), ("class_ind", object), ("mask", object), ("parts", object)]
    rows = np.empty((1, len(objects)), dtype=kind)
    for i, one in enumerate(objects):
        rows[0, i] = tuple(one[key] for key, _ in kind)
    place.parent.mkdir(parents=True, exist_ok=True)
    savemat(place, {"anno": {"imname": place.stem, "objects": rows}}, do_compression=True)


def box(left: int, top: int, right: int, bottom: int, height: int = 120, width: int = 200) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def test_pascal_part_gives_a_row_for_each_object(tmp_path: Path) -> None:
    for index, name in enumerate(("one", "many", "none")):
        save(tmp_path / f"JPEGImages/2008_{name}.jpg", picture(index, 120, 200))
    save(tmp_path / "JPEGImages/unlabelled.jpg", picture(9, 120, 200))
    parts = {
        "leftside": box(20, 20, 100, 100), "wheel_1": box(30, 80, 50, 100), "window_2": box(40, 30, 60, 50),
        "headlight_1": box(90, 60, 100, 70), "fliplate": box(60, 90, 70, 95),
    }  # fmt: skip
    whole = matlab_object("car", box(20, 20, 120, 100), parts)
    write_anno(tmp_path / "Annotations_Part/2008_one.mat", [whole])
    small, person = matlab_object("car", box(150, 5, 180, 40), {}), matlab_object("person", box(0, 0, 10, 119), {})
    hidden = matlab_object("car", box(125, 50, 195, 115), {"wheel_1": box(130, 100, 140, 110)})
    over = matlab_object("bus", box(120, 50, 160, 115), {})
    write_anno(tmp_path / "Annotations_Part/2008_many.mat", [whole, small, person, hidden, over])
    write_anno(tmp_path / "Annotations_Part/2008_none.mat", [person])
    made = make(tmp_path, 50, layout="pascal-part", task="car")
    assert set(made) == {"2008_one.jpg", "2008_many.jpg", "2008_none.jpg"}
    one = made["2008_one.jpg"]
    assert [row.name for row in one.rows] == ["2008_one.jpg#0"] and one.rows[0].size == (80, 100)
    found = class_map(one)  # 100 x 80 pixels from (20, 20) on 50 x 50
    at = {name: i for i, name in enumerate(("background", "body", "window", "wheel", "light", "plate"))}
    assert found[45, 10] == at["wheel"] and found[12, 15] == at["window"] and found[28, 37] == at["light"]
    assert found[45, 22] == at["plate"] and found[5, 5] == at["body"]
    assert found[25, 48] == at["body"]  # the object's own mask, where no part is
    many = made["2008_many.jpg"]
    assert len(many.rows) == 1 and sorted(kinds(many)) == ["object overlapped", "object too small"]
    assert kinds(made["2008_none.jpg"]) == ["no object"] and not made["2008_none.jpg"].rows


def test_pascal_part_splits_and_damage(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / f"JPEGImages/{name}.jpg", picture(3, 120, 200))
    horse = matlab_object("horse", box(20, 20, 120, 100), {"head": box(20, 20, 40, 40), "lflleg": box(50, 70, 60, 100)})
    write_anno(tmp_path / "Annotations_Part/a.mat", [horse])
    (tmp_path / "Annotations_Part/b.mat").write_bytes(b"not matlab at all, but long enough to have a header" * 9)
    write_anno(tmp_path / "Annotations_Part/c.mat", [horse])
    sets = tmp_path / "ImageSets/Main"
    sets.mkdir(parents=True)
    (sets / "horse_train.txt").write_text("a  1\nb  0\nc -1\n")
    (sets / "val.txt").write_text("c\n")
    made = make(tmp_path, layout="pascal-part", task="horse", split="train")
    assert set(made) == {"a.jpg", "b.jpg"} and kinds(made["b.jpg"]) == ["mask unreadable"]
    assert set(np.unique(class_map(made["a.jpg"]))) == {1, 2, 4}  # body, leg, head
    assert set(make(tmp_path, layout="pascal-part", task="horse", split="val")) == {"c.jpg"}
    with pytest.raises(DataError, match="no split 'test'"):
        make(tmp_path, layout="pascal-part", task="horse", split="test")
    with pytest.raises(ConfigError, match="task="):
        make(tmp_path, layout="pascal-part")


def test_pascal_part_without_scipy_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingEnvironmentError, match="scipy"):
        make(tmp_path, layout="pascal-part", task="car")


def test_voc_and_sbd_give_the_same_map(tmp_path: Path) -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[5:20, 5:20], truth[20:22, 5:20] = 15, 255
    assert voc_colour(15) == (192, 128, 128) and voc_colour(255) == (224, 224, 192) and voc_colour(1) == (128, 0, 0)
    save(tmp_path / "voc/JPEGImages/a.jpg", picture(1, 40, 40))
    save(tmp_path / "voc/JPEGImages/b.jpg", picture(2, 40, 40))
    (tmp_path / "voc/SegmentationClass").mkdir()
    palette = b"".join(bytes(voc_colour(i)) for i in range(256))
    (tmp_path / "voc/SegmentationClass/a.png").write_bytes(encode_png(truth, palette))
    voc = make(tmp_path / "voc", 40, layout="voc")
    assert set(voc) == {"a.jpg"} and (class_map(voc["a.jpg"]) == truth).all()
    assert voc["a.jpg"].rows[0].classes[15] == 225 and len(voc["a.jpg"].rows[0].classes) == len(voc_labels().names)
    savemat = pytest.importorskip("scipy.io").savemat
    save(tmp_path / "sbd/dataset/img/a.jpg", picture(1, 40, 40))
    (tmp_path / "sbd/dataset/cls").mkdir()
    savemat(tmp_path / "sbd/dataset/cls/a.mat", {"GTcls": {"Segmentation": truth, "Boundaries": np.zeros(3)}})
    (tmp_path / "sbd/dataset/train.txt").write_text("a\n")
    sbd = make(tmp_path / "sbd", 40, layout="voc", split="train")
    assert (class_map(sbd["a.jpg"]) == truth).all()


def test_datasetgan_arrays(tmp_path: Path) -> None:
    truth = render_toy(0, 4, 40)[1]
    for index in range(4):
        save(tmp_path / f"image_{index}.{'jpg' if index else 'png'}", picture(index, 40, 40))
        np.save(tmp_path / f"image_mask{index}.npy", truth.astype(np.int64))
    np.save(tmp_path / "image_mask2.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "image_mask3.npy").unlink()
    np.save(tmp_path / "image_mask7.npy", truth)
    made = make(tmp_path, 40, layout="datasetgan")
    assert (class_map(made["image_0.png"]) == truth).all() and (class_map(made["image_1.jpg"]) == truth).all()
    assert kinds(made["image_2.jpg"]) == ["mask unreadable"] and kinds(made["image_3.jpg"]) == ["mask missing"]
    listing = open_listing(str(tmp_path), PreparationSettings(32, layout="datasetgan"))
    assert [f.name for f in listing.left_out] == ["image_mask7.npy"]
    assert listing.annotations is not None and listing.annotations.labels.num_classes == int(truth.max()) + 1
    (tmp_path / "labels.json").write_text('{"classes": ["background", "a", "b", "c"]}')
    assert kinds(make(tmp_path, 40, layout="datasetgan")["image_0.png"]) == ["unknown class"]


def test_options_without_use_are_refused(tmp_path: Path) -> None:
    for options in ({"layout": "voc", "task": "car"}, {"task": "car"}, {"layout": "imagenet"}):
        with pytest.raises(ConfigError):
            open_listing(str(tmp_path), PreparationSettings(32, **options))
    for options in ({"fit": "stretch"}, {"image_format": "gif"}, {"max_aspect": 0.5}, {"mask_format": "xml"}):
        with pytest.raises(ConfigError):
            PreparationSettings(32, **options)  # type: ignore[arg-type]
