from __future__ import annotations

import csv
import json
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygseg.cli.app import main
from raygseg.data import object_store
from raygseg.data.picture_files import encode_png
from raygseg.data.preparation import prepared_set
from raygseg.data.preparation.settings import PreparationSettings
from raygseg.data.sources import open_labelled, open_pictures
from raygseg.data.toy import render_toy, toy_labels
from raygseg.errors import DataError, FingerprintError, StorageError
from raygseg.pipelines.inspect import inspect
from raygseg.pipelines.prepare import plan, prepare

SETTINGS = PreparationSettings(16, files_per_shard=7)


def photos(folder: Path, count: int = 30, side: int = 24) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(render_toy(0, index, side)[0]).save(folder / f"p{index:03d}.png")
    return folder


def labelled(folder: Path, count: int = 20, side: int = 24) -> Path:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        picture, truth = render_toy(0, index, side)
        (folder / f"images/p{index:03d}.png").write_bytes(encode_png(picture))
        (folder / f"masks/p{index:03d}.png").write_bytes(encode_png(truth))
    (folder / "labels.json").write_text(json.dumps(toy_labels().to_dict()))
    return folder


def content(output: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((output / "pictures").iterdir())}


def findings(output: Path) -> list[list[str]]:
    return list(csv.reader((output / "findings.csv").open()))[1:]


def test_every_step_reads_what_was_prepared(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in"), tmp_path / "out"
    result = prepare(str(source), str(out), SETTINGS)
    assert result.pictures == result.files == 30 and not result.skipped
    data = open_pictures(str(out), 16)
    assert len(data) == 30 and data.report.bad == ()
    expected = np.stack([open_pictures(str(source), 16).read(i) for i in range(30)])
    assert (data.as_array() == expected).all()  # square pictures: nothing but the same shrinking
    facts = inspect(str(out))
    assert facts["what"] == "prepared pictures, complete" and facts["pictures"] == 30 and facts["resolution"] == 16


def test_labels_are_kept_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(str(labelled(tmp_path / "in")), str(out), PreparationSettings(24, "squash", files_per_shard=7))
    data = open_labelled(str(out), 24)
    assert data.labels == toy_labels() and len(data) == 20  # palette and left/right pairs too
    for index in (0, 9, 19):
        picture, truth = render_toy(0, index, 24)
        assert (data.read(index)[0] == picture).all() and (data.read(index)[1] == truth).all()
    page = (out / "report.html").read_text()
    assert "left_arm" in page and "share of pixels" in page and "data:image/png" in page


def test_padding_is_void(tmp_path: Path) -> None:
    source = labelled(tmp_path / "in", 3)
    for kind in ("images", "masks"):
        for file in (source / kind).iterdir():
            Image.open(file).crop((0, 0, 24, 18)).save(file)
    out = tmp_path / "out"
    prepare(str(source), str(out), PreparationSettings(16, "pad"))
    data = open_labelled(str(out), 16)
    assert data.labels.void == 255 and data.labels.names == toy_labels().names
    assert (data.read(0)[1][:2] == 255).all() and (data.read(0)[1][4:12] != 255).all()


def test_the_same_command_again_has_nothing_to_do(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in"), tmp_path / "out"
    prepare(str(source), str(out), SETTINGS)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    seen: list[tuple[Any, ...]] = []
    again = prepare(str(source), str(out), SETTINGS, progress=lambda *at: seen.append(at))
    assert again.done_before == 30 and seen[-1][1:3] == (30, 30)
    changed = [p.name for p, at in before.items() if p.stat().st_mtime_ns != at]
    assert not [name for name in changed if name.startswith("pictures-") or name in ("report.html", "findings.csv")]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_that_was_cut_short_ends_with_the_same_bytes(tmp_path: Path, threads: int) -> None:
    source = photos(tmp_path / "in")
    Image.fromarray(render_toy(0, 2, 24)[0]).save(source / "z.bmp")  # of a file in a shard made before the cut
    prepare(str(source), str(tmp_path / "whole"), SETTINGS)
    out = tmp_path / "cut"

    def progress(stage: str, done: float, total: float, facts: object) -> None:
        if done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(str(source), str(out), SETTINGS, threads=threads, progress=progress)
    assert not [t for t in threading.enumerate() if t.name.startswith("prepare")]
    assert len(content(out)) == 2
    with pytest.raises(DataError, match="has not finished"):
        open_pictures(str(out), 16)
    result = prepare(str(source), str(out), SETTINGS, threads=threads)
    assert result.done_before == 14 and result.left_out == {"duplicate": 1}
    assert content(out) == content(tmp_path / "whole") and findings(out) == findings(tmp_path / "whole")


def test_a_lost_shard_is_made_again(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in"), tmp_path / "out"
    prepare(str(source), str(out), SETTINGS)
    before = content(out)
    (out / "pictures/pictures-000000014.parquet").unlink()
    assert prepare(str(source), str(out), SETTINGS).done_before == 23
    assert content(out) == before


def test_other_settings_or_files_in_the_same_place_are_refused_by_name(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in"), tmp_path / "out"
    prepare(str(source), str(out), SETTINGS)
    with pytest.raises(FingerprintError, match=r"fit: 'crop' -> 'pad'") as caught:
        prepare(str(source), str(out), PreparationSettings(16, "pad", files_per_shard=7))
    assert "resolution" not in caught.value.message and "--overwrite" in caught.value.hint
    Image.fromarray(render_toy(0, 99, 24)[0]).save(source / "new.png")
    with pytest.raises(FingerprintError, match=r"source\.files: 30 -> 31"):
        prepare(str(source), str(out), SETTINGS)
    assert prepare(str(source), str(out), SETTINGS, overwrite=True).pictures == 31
    assert len(open_pictures(str(out), 16)) == 31
    moved = tmp_path / "moved"
    source.rename(moved)
    assert prepare(str(moved), str(out), SETTINGS).done_before == 31  # where it lies is of no matter


def test_past_the_limit_it_stops_and_names_three(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in"), tmp_path / "out"
    for index in (1, 2, 5, 8, 29):
        (source / f"p{index:03d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"p001\.png: empty file.*p002.*p005") as caught:
        prepare(str(source), str(out), SETTINGS, max_bad_fraction=0.1)
    assert "p008" not in caught.value.message and "report.html" in caught.value.hint
    assert (out / "report.html").exists() and len(content(out)) == 2  # the rest was not tried
    result = prepare(str(source), str(out), SETTINGS)  # 5 of 30 are within the usual limit, and it goes on
    assert result.pictures == 25 and result.skipped == {"empty file": 5} and result.done_before == 14
    with pytest.raises(DataError, match="not one of 1 files is left"):
        (tmp_path / "none").mkdir()
        Image.fromarray(np.full((24, 24, 3), 7, np.uint8)).save(tmp_path / "none/flat.png")
        prepare(str(tmp_path / "none"), str(tmp_path / "empty"), SETTINGS, max_bad_fraction=1)


def test_duplicates_are_told_by_their_pixels(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 12), tmp_path / "out"
    Image.fromarray(render_toy(0, 3, 24)[0]).save(source / "z.bmp")
    (source / "copy.png").write_bytes((source / "p005.png").read_bytes())
    rotated = Image.Exif()
    rotated[0x0112] = 3
    turned = Image.fromarray(render_toy(0, 7, 24)[0]).transpose(Image.Transpose.ROTATE_180)
    turned.save(source / "q.png", exif=rotated)
    bright = Image.fromarray(np.clip(render_toy(0, 9, 24)[0].astype(int) + 1, 0, 255).astype(np.uint8))
    bright.save(source / "r.png")
    result = prepare(str(source), str(out), SETTINGS)
    assert result.left_out == {"duplicate": 3} and result.pictures == 13
    # In name order the first is kept, whatever it is called.
    told = {row[0]: (row[1], row[3]) for row in findings(out)}
    assert told["p005.png"] == ("duplicate", "of copy.png") and told["q.png"] == ("duplicate", "of p007.png")
    assert told["z.bmp"] == ("duplicate", "of p003.png") and told["r.png"] == ("near duplicate", "of p009.png")
    kept = prepare(str(source), str(tmp_path / "all"), PreparationSettings(16, keep_duplicates=True))
    assert kept.pictures == 16 and kept.left_out == {}


def test_unreadable_files_are_one_more_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = photos(tmp_path / "in", 12), object_store.read_bytes

    def refusing(uri: str) -> bytes:
        if uri.endswith("p004.png"):
            raise StorageError(f"{uri}: Permission denied") from PermissionError(13, "Permission denied")
        return read(uri)

    monkeypatch.setattr("raygseg.data.preparation.reading.read_bytes", refusing)
    assert prepare(str(source), str(tmp_path / "out"), SETTINGS).skipped == {"unreadable": 1}
    assert findings(tmp_path / "out") == [["p004.png", "unreadable", "skipped", "[Errno 13] Permission denied"]]


def test_folders_that_may_not_be_opened_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, scandir = photos(tmp_path / "in", 12), os.scandir
    photos(source / "sub/locked", 3)

    def refusing(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    result = prepare(str(source), str(tmp_path / "out"), SETTINGS)
    assert result.pictures == 12 and result.skipped == {"unreadable": 1}
    assert findings(tmp_path / "out") == [["sub/locked/", "unreadable", "skipped", "a folder"]]


def test_a_store_that_is_down_makes_no_file_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = photos(tmp_path / "in", 20), object_store.read_bytes

    def down(uri: str) -> bytes:
        if uri.endswith("p010.png"):
            raise StorageError(f"{uri}: no answer", "start the server")
        return read(uri)

    with monkeypatch.context() as patch:
        patch.setattr("raygseg.data.preparation.reading.read_bytes", down)
        with pytest.raises(StorageError, match="no answer"):
            prepare(str(source), str(tmp_path / "out"), SETTINGS)
    result = prepare(str(source), str(tmp_path / "out"), SETTINGS)
    assert result.pictures == 20 and result.done_before == 7


def test_the_output_may_lie_in_the_source(tmp_path: Path) -> None:
    source = photos(tmp_path / "in", 9)
    first = prepare(str(source), str(source / "prepared"), SETTINGS)
    assert first.pictures == 9 and prepare(str(source), str(source / "prepared"), SETTINGS).done_before == 9


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more decoded files exist at a time than threads wait for, and one shard's encoded rows."""
    import weakref

    from raygseg.data.preparation import making

    source = photos(tmp_path / "in", 60)
    alive: Counter[str] = Counter()
    peaks: Counter[str] = Counter()

    class Counted(making.Row):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            alive["rows"] += 1
            peaks["rows"] = max(peaks["rows"], alive["rows"])
            weakref.finalize(self, lambda: alive.subtract(rows=1))

    monkeypatch.setattr(making, "Row", Counted)
    prepare(str(source), str(tmp_path / "out"), SETTINGS, threads=2)
    assert 7 <= peaks["rows"] <= 2 * 7 + 2 * 4


def test_the_plan_tries_some_files_and_writes_nothing(tmp_path: Path) -> None:
    source = photos(tmp_path / "in")
    (source / "p000.png").write_bytes(b"")
    facts = plan(str(source), str(tmp_path / "out"), SETTINGS)
    assert facts["files"] == facts["tried"] == 30 and facts["usable_of_those"] == 29 and facts["shards"] == 5
    assert facts["found"] == {"empty file": 1} and not (tmp_path / "out").exists()


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = photos(tmp_path / "a photo's <folder>"), tmp_path / "out"
    words = ["prepare", str(source), "-o", str(out), "-r", "16"]
    assert main([*words, "--dry-run"]) == 0 and not out.exists()
    assert "nothing was written" in capsys.readouterr().out
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "data.source=" in captured.out and "prepare: 30/30 (100 %)" in captured.err
    assert main(words) == 0 and "nothing to do" in capsys.readouterr().out
    assert main([*words, "--fit", "pad"]) == 2 and "fit: 'crop' -> 'pad'" in capsys.readouterr().err
    assert main([*words, "--fit", "stretch"]) == 2 and "squash" in capsys.readouterr().err
    page = (out / "report.html").read_text()
    assert "a photo&#x27;s &lt;folder&gt;" in page and "<folder>" not in page


def test_the_page_names_files_by_kind(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 20), tmp_path / "out"
    (source / "p001.png").write_bytes(b"")
    (source / "<b>.jpg").write_bytes(b"no picture")
    (source / "notes.txt").write_text("x")
    wide = Image.fromarray(render_toy(0, 50, 48)[0]).crop((0, 0, 48, 30))
    wide.convert("L").save(source / "wide.png")
    prepare(str(source), str(out), SETTINGS)
    page = (out / "report.html").read_text()
    for text in ("&lt;b&gt;.jpg", "p001.png", "notes.txt", "empty file", "not a picture", "other file", "grey"):
        assert text in page
    assert "1.43 to 1.82" in page and "<td" in page and "<b>.jpg" not in page
    assert 'src="http' not in page and page.count("<img") == 1


def test_records_that_are_none_are_errors_that_name_them(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 8), tmp_path / "out"
    prepare(str(source), str(out), SETTINGS)
    notes = out / "notes/pictures-000000000.json"
    notes.write_text("{}")
    with pytest.raises(DataError, match=r"pictures-000000000\.json: not the notes"):
        prepare(str(source), str(out), SETTINGS)
    (out / prepared_set.RECORD).write_text("[]")
    with pytest.raises(DataError, match=r"prepared\.json: not the record"):
        prepare(str(source), str(out), SETTINGS)
    (out / prepared_set.RECORD).unlink()
    with pytest.raises(DataError, match="holds shards but no"):
        prepare(str(source), str(out), SETTINGS)


@pytest.mark.parametrize("name", ["animals_voc", "cars"])
def test_real_photos_come_out_as_they_are_read_unprepared(tmp_path: Path, real_data: Path, name: str) -> None:
    source, out = str(real_data / name), tmp_path / "out"
    if name == "cars":  # its unlabelled photos lie beside the labelled ones
        (tmp_path / "cars").mkdir()
        for kind in ("images", "masks", "meta.json"):
            (tmp_path / "cars" / kind).symlink_to(real_data / "cars" / kind)
        source = str(tmp_path / "cars")
    settings = PreparationSettings(64, "squash", min_side=8, limit=12)
    masks = str(Path(source, "masks"))
    result = prepare(str(Path(source, "images")), str(out), settings, masks=masks, max_bad_fraction=0)
    assert result.pictures == 12 and not result.skipped
    expected, found = open_labelled(source, 64, limit=12), open_labelled(str(out), 64)
    assert found.labels.names == expected.labels.names and found.labels.void == expected.labels.void
    for row in range(12):
        assert (found.read(row)[1] == expected.read(row)[1]).all(), found.names[row]
        assert (found.read(row)[0] == expected.read(row)[0]).all(), found.names[row]
