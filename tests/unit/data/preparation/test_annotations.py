"""Masks in every format, and that they end up exactly on their pictures."""

from __future__ import annotations

import io
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygseg.data.picture_files import encode_png
from raygseg.data.preparation.findings import UnusableError
from raygseg.data.preparation.layouts import open_listing
from raygseg.data.preparation.listing import Item, Listing
from raygseg.data.preparation.making import Made, Maker, labels_with_void
from raygseg.data.preparation.settings import PreparationSettings
from raygseg.data.toy import render_toy, toy_labels
from raygseg.errors import DataError

SIDE = 40


def photo(folder: Path, name: str, picture: np.ndarray, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(place, exif=exif)


def make(folder: Path, masks: str, fit: str = "squash", resolution: int = SIDE, **options: Any) -> dict[str, Made]:
    settings = PreparationSettings(resolution, fit, min_side=8, **options)
    listing = open_listing(str(folder), settings, masks)
    assert listing.annotations is not None
    maker = Maker(listing, settings, labels_with_void(listing.annotations.labels, fit))
    return {item.name: maker(item) for item in listing.items}


def class_map(made: Made, row: int = 0) -> np.ndarray:
    content = made.rows[row].mask
    assert content is not None, made.findings
    return np.asarray(Image.open(io.BytesIO(content)))


def kinds(made: Made) -> list[str]:
    return [finding.kind for finding in made.findings]


def write_labels(folder: Path, **extra: Any) -> None:
    (folder / "labels.json").write_text(json.dumps({**toy_labels().to_dict(), "palette": None, **extra}))


def test_palette_grey_and_colour_masks_give_the_same_map(tmp_path: Path) -> None:
    labels = toy_labels()
    picture, truth = render_toy(0, 1, SIDE)
    for name in ("palette", "grey", "colour"):
        photo(tmp_path, f"images/{name}.png", picture)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/palette.png").write_bytes(encode_png(truth, bytes(768)))
    (tmp_path / "masks/grey.png").write_bytes(encode_png(truth))
    (tmp_path / "masks/colour.png").write_bytes(encode_png(labels.colourise(truth)))
    write_labels(tmp_path, palette=[list(c) for c in labels.palette])
    made = make(tmp_path, "")
    assert set(made) == {"images/palette.png", "images/grey.png", "images/colour.png"}  # masks/ is found by itself
    for one in made.values():
        assert (class_map(one) == truth).all() and kinds(one) == []
        assert one.rows[0].classes == tuple(np.bincount(truth.ravel(), minlength=9))
    write_labels(tmp_path)  # no palette: colours mean nothing
    assert kinds(make(tmp_path, "")["images/colour.png"]) == ["mask unreadable"]


def test_bad_masks_are_told_by_kind(tmp_path: Path) -> None:
    picture, truth = render_toy(0, 2, SIDE)
    (tmp_path / "masks").mkdir()
    masks = {
        "size": encode_png(truth[:-1]), "class": encode_png(np.full_like(truth, 77)), "cut": encode_png(truth)[:60],
        "colour": encode_png(np.full((SIDE, SIDE, 3), 3, np.uint8)),
    }  # fmt: skip
    for name in (*masks, "none"):
        photo(tmp_path, f"images/{name}.png", picture)
    for name, content in masks.items():
        (tmp_path / f"masks/{name}.png").write_bytes(content)
    (tmp_path / "masks/lost.png").write_bytes(encode_png(truth))
    write_labels(tmp_path, palette=[list(c) for c in toy_labels().palette])
    found = {name.removeprefix("images/").removesuffix(".png"): kinds(m) for name, m in make(tmp_path, "").items()}
    assert found == {
        "size": ["mask of another size"], "class": ["unknown class"], "cut": ["mask unreadable"],
        "colour": ["unknown class"], "none": ["mask missing"],
    }  # fmt: skip
    listing = open_listing(str(tmp_path), PreparationSettings(32))
    assert [f[:2] for f in listing.left_out] == [("lost.png", "mask without picture")]


def test_a_mask_of_0_and_255_is_a_mask_of_two_classes(tmp_path: Path) -> None:
    picture, truth = render_toy(0, 2, SIDE)
    photo(tmp_path, "images/a.png", picture)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.png").write_bytes(encode_png(np.where(truth, 255, 0).astype(np.uint8)))
    (tmp_path / "labels.json").write_text('{"classes": ["background", "robot"]}')
    made = make(tmp_path, "")["images/a.png"]
    assert kinds(made) == ["mask of 0 and 255"] and (class_map(made) == (truth > 0)).all()


# The size of a mask does not tell for half turns: it is taken as stored.
@pytest.mark.parametrize(("orientation", "drawn_upright"), [(1, False), (3, False), *product((6, 7), (False, True))])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_masks_go_the_way_of_their_pictures(tmp_path: Path, orientation: int, drawn_upright: bool, fit: str) -> None:
    """The picture shows its own mask as brightness; whichever way it is stored, both agree in the end."""
    truth = (render_toy(0, 5, SIDE)[1][:, 4:32] > 0).astype(np.uint8)  # 40 x 28
    stored = Image.fromarray(truth)
    inverse = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE}
    if orientation in inverse:
        stored = stored.transpose(inverse[orientation])
    stored_map = np.asarray(stored)
    photo(tmp_path, "images/a.png", np.repeat(stored_map[..., None] * 255, 3, -1).astype(np.uint8), orientation)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.png").write_bytes(encode_png(truth if drawn_upright else np.ascontiguousarray(stored_map)))
    (tmp_path / "labels.json").write_text('{"classes": ["background", "robot"]}')
    made = make(tmp_path, "", fit, 56)["images/a.png"]
    assert ("mask already upright" in kinds(made)) == (drawn_upright and orientation >= 5)
    shown = np.asarray(Image.open(io.BytesIO(made.rows[0].picture)))[..., 0] > 127
    mapped = class_map(made)
    assert ((mapped == 255).any()) == (fit == "pad")
    inside = mapped != 255
    assert (shown == (mapped == 1))[inside].mean() > 0.97


def coco_document(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": SIDE, "height": SIDE},
                   {"id": 8, "file_name": "empty.png", "width": SIDE, "height": SIDE}],
        "categories": [{"id": 30, "name": "wheel"}, {"id": 20, "name": "car"}],
        "annotations": [{"id": i, "image_id": 7, **shape} for i, shape in enumerate(shapes)],
    }  # fmt: skip


def test_coco_polygons_and_run_lengths(tmp_path: Path) -> None:
    """Made by pycocotools where it defines the format; the smaller part lies on top however it is listed."""
    coco = pytest.importorskip("pycocotools.mask")
    wheel = np.zeros((SIDE, SIDE), np.uint8)
    wheel[20:26, 10:16] = 1
    packed = coco.encode(np.asfortranarray(wheel))
    photo(tmp_path, "in/a.png", render_toy(0, 1, SIDE)[0])
    photo(tmp_path, "in/empty.png", render_toy(0, 2, SIDE)[0])
    photo(tmp_path, "in/other.png", render_toy(0, 3, SIDE)[0])
    body = [5, 10, 30, 10, 30, 30, 5, 30]
    document = coco_document(
        [
            {
                "category_id": 30,
                "segmentation": {"size": [SIDE, SIDE], "counts": packed["counts"].decode()},
                "area": 36,
            },
            {"category_id": 20, "segmentation": [body], "area": 500},
            {"category_id": 20, "segmentation": [], "area": 0},
        ]
    )
    (tmp_path / "c.json").write_text(json.dumps(document))
    made = make(tmp_path / "in", str(tmp_path / "c.json"))
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[10:30, 5:30] = 1  # classes in the order of their ids: car, wheel
    expected[wheel > 0] = 2
    assert (class_map(made["a.png"]) == expected).all() and kinds(made["a.png"]) == ["shape ignored"]
    assert (class_map(made["empty.png"]) == 0).all()
    assert kinds(made["other.png"]) == ["mask missing"]
    del document["annotations"][0]["area"], document["annotations"][1]["area"]  # then areas are counted
    (tmp_path / "c.json").write_text(json.dumps(document))
    assert (class_map(make(tmp_path / "in", str(tmp_path / "c.json"))["a.png"]) == expected).all()


def test_damaged_coco_is_refused_whole_or_by_picture(tmp_path: Path) -> None:
    photo(tmp_path, "in/a.png", render_toy(0, 1, SIDE)[0])
    for shape in (
        {"category_id": 30, "segmentation": [[1, 2, 3]]},
        {"category_id": 30, "segmentation": [[1, 2, 3, 4]]},
    ):
        (tmp_path / "c.json").write_text(json.dumps(coco_document([shape])))
        assert kinds(make(tmp_path / "in", str(tmp_path / "c.json"))["a.png"]) == ["mask unreadable"]
    (tmp_path / "c.json").write_text('{"images": []}')
    with pytest.raises(DataError, match="not a COCO annotation file"):
        make(tmp_path / "in", str(tmp_path / "c.json"))


def test_labelme_shapes_among_the_photos(tmp_path: Path) -> None:
    photo(tmp_path, "a.png", render_toy(0, 1, SIDE)[0])
    photo(tmp_path, "b.png", render_toy(0, 2, SIDE)[0])
    shapes = [
        {"label": "car", "shape_type": "rectangle", "points": [[5, 10], [30, 30]]},
        {"label": "wheel", "shape_type": "circle", "points": [[12, 25], [12, 29]]},
        {"label": "lamp", "shape_type": "polygon", "points": [[28, 12], [30, 12], [30, 16], [28, 16]]},
        {"label": "note", "shape_type": "point", "points": [[3, 3]]},
    ]
    document = {"shapes": shapes, "imageHeight": SIDE, "imageWidth": SIDE, "imagePath": "a.png", "imageData": None}
    (tmp_path / "a.json").write_text(json.dumps(document))
    (tmp_path / "b.json").write_text("{")
    made = make(tmp_path, str(tmp_path))
    assert set(made) == {"a.png", "b.png"}
    found = class_map(made["a.png"])
    assert kinds(made["a.png"]) == ["shape ignored"] and kinds(made["b.png"]) == ["mask unreadable"]
    # background, car, lamp, wheel: in alphabetical order, since no labels.json says otherwise
    assert (found[12:16, 28:30] == 2).all() and found[25, 12] == 3 and found[11, 6] == 1 and found[0, 0] == 0
    assert abs(int((found == 3).sum()) - np.pi * 16) < 6
    listing = open_listing(str(tmp_path), PreparationSettings(32), str(tmp_path))
    assert listing.annotations is not None
    assert listing.annotations.labels.names == ("background", "car", "lamp", "wheel")
    assert list(listing.left_out) == []  # the annotations are no stray files


def test_masks_are_found_by_path_then_by_name(tmp_path: Path) -> None:
    picture, truth = render_toy(0, 1, SIDE)
    for name in ("x/1.png", "y/1.png", "y/2.png"):
        photo(tmp_path, f"photos/{name}", picture)
    for name in ("x/1.png", "y/1.png", "2.png", "z/1.png"):
        place = tmp_path / "labels" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode_png(truth))
    write_labels(tmp_path)
    settings = PreparationSettings(32)
    listing = open_listing(str(tmp_path / "photos"), settings, str(tmp_path / "labels"), str(tmp_path / "labels.json"))
    assert [f.name for f in listing.left_out] == ["z/1.png"]
    assert listing.annotations is not None
    for item in listing.items:
        assert (listing.annotations.read(item).annotations[0].class_map == truth).all()
    with pytest.raises(UnusableError):
        listing.annotations.read(Item("y/3.png", 1))


def test_a_split_is_a_file_of_names_or_one_of_splits_json(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        photo(tmp_path, f"in/sub/{name}.png", render_toy(0, 1, SIDE)[0])
    (tmp_path / "splits.json").write_text('{"train": ["a", "sub/b.png"], "test": ["c"]}')
    (tmp_path / "list.txt").write_text("sub/c\n\nmy photo.jpg\na -1\n")

    def names(split: str) -> list[str]:
        listing = open_listing(str(tmp_path / "in"), PreparationSettings(32, split=split))
        return [item.name for item in listing.items]

    assert names("train") == ["sub/a.png", "sub/b.png"] and names("test") == ["sub/c.png"]
    assert names(str(tmp_path / "list.txt")) == ["sub/c.png"]
    with pytest.raises(DataError, match="no split 'val'"):
        names("val")


def test_annotations_that_nobody_thought_of_are_findings(tmp_path: Path) -> None:
    photo(tmp_path, "in/a.png", render_toy(0, 1, SIDE)[0])
    shape = {"category_id": 30, "segmentation": [["x", 1, 2, 3, 4, 5]]}
    (tmp_path / "c.json").write_text(json.dumps(coco_document([shape])))
    assert kinds(make(tmp_path / "in", str(tmp_path / "c.json"))["a.png"]) == ["mask unreadable"]
    (tmp_path / "l").mkdir()
    document = {"shapes": [{"label": "car", "points": 7}, "?"], "imageHeight": SIDE, "imageWidth": SIDE}
    (tmp_path / "l/a.json").write_text(json.dumps(document))
    (tmp_path / "labels.json").write_text('{"classes": ["background", "car"]}')
    assert kinds(make(tmp_path / "in", str(tmp_path / "l"))["a.png"]) == ["mask unreadable"]


def test_a_source_without_what_it_needs_is_an_error_that_names_it(tmp_path: Path) -> None:
    settings = PreparationSettings(32)
    with pytest.raises(DataError, match="no such folder"):
        open_listing(str(tmp_path / "nowhere"), settings)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="no pictures"):
        open_listing(str(tmp_path), settings)
    photo(tmp_path, "images/a.png", render_toy(0, 1, SIDE)[0])
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="no PNG masks"):
        open_listing(str(tmp_path), settings)
    (tmp_path / "masks/a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no labels\.json") as caught:
        open_listing(str(tmp_path), settings)
    assert "classes" in caught.value.hint


def test_names_that_are_not_utf8_are_kept_readable() -> None:
    item = Item("b\udce4r.png", 3)
    assert item.shown == "b\\udce4r.png"
    listing = Listing("nowhere", [item])
    assert Maker(listing, PreparationSettings(32), None)(item).findings[0].kind == "unreadable"
