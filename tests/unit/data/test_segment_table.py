"""Jobs and the table of segments, on disk and on a real S3 server."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygseg.data import object_store
from raygseg.data.picture_files import encode_png
from raygseg.data.picture_jobs import (
    FileJob,
    PictureEntry,
    PictureJob,
    TableJob,
    entries_of,
    job_from_text,
    job_to_text,
    list_pictures,
)
from raygseg.data.segment_table import SegmentRow, SegmentTable, mask_name
from raygseg.errors import FingerprintError
from raygseg.labels import LabelSpace

LABELS = LabelSpace(("background", "body"))
NAME = st.text(st.characters(blacklist_characters="/\x00"), min_size=1, max_size=8).filter(
    lambda n: n not in (".", "..")
)


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "place") if request.param == "disk" else str(request.getfixturevalue("s3_place"))


def row(name: str, reason: str = "") -> SegmentRow:
    entry = PictureEntry(name, name.rpartition(".")[0])
    return SegmentRow(name, "" if reason else mask_name(entry), 4, 3, 0.5, 0.75, () if reason else (0.25, 0.75), reason)


def lines(output: str) -> list[dict[str, str]]:
    text = object_store.read_bytes(object_store.join(output, "segments.csv")).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_pictures_are_listed_without_the_output_inside(place: str) -> None:
    png = encode_png(np.zeros((3, 4, 3), np.uint8))
    for name in ("a.png", "sub/b.PNG", "parts/masks/a.png", "partsy.png", "notes.txt"):
        object_store.write_bytes(object_store.join(place, name), png)
    listing = list_pictures(place, leave_out=object_store.join(place, "parts"))
    assert [entry.name for entry in listing.files] == ["a.png", "partsy.png", "sub/b.PNG"]
    assert listing.ignored == {".txt": 1}
    (job,) = listing.jobs(lambda entry: entry.name == "a.png")
    assert [(entry.target, content) for entry, content in job.contents()] == [("partsy", png), ("sub/b", png)]
    object_store.delete(object_store.join(place, "partsy.png"))
    gone = dict(job.contents())[job_entries(job)[0]]
    assert "cannot be read" in str(gone)


def job_entries(job: PictureJob) -> list[PictureEntry]:
    return list(job.entries)


def test_the_table_goes_on_after_an_interruption(place: str) -> None:
    with SegmentTable(place, LABELS, "m", "c0ffee", overlays=False) as table:
        for name in ("a.png", "b.png", "c, d.png"):
            object_store.write_bytes(object_store.join(place, "masks", name), b"mask")
            table.add(row(name))
        table.add(row("torn.png", "cannot be decoded: broken"))
    assert [line["status"] for line in lines(place)] == ["ok"] * 3 + ["skipped"]
    assert lines(place)[2]["file"] == "c, d.png" and lines(place)[2]["share body"] == "0.750000"
    object_store.delete(object_store.join(place, "masks/b.png"))
    with SegmentTable(place, LABELS, "m", "c0ffee", overlays=False) as table:
        done = [n for n in ("a.png", "b.png", "c, d.png", "torn.png") if table.is_done(PictureEntry(n, n[:-4]))]
        assert done == ["a.png", "c, d.png"]
        assert not table.is_done(PictureEntry("a.png", "a.png")), "its mask now belongs elsewhere"
        table.add(row("b.png"))
    assert [line["file"] for line in lines(place)] == ["a.png", "c, d.png", "b.png"]
    with pytest.raises(FingerprintError, match="a different model"):
        SegmentTable(place, LABELS, "m", "decaf", overlays=False)


@pytest.mark.s3
def test_the_table_on_s3_is_uploaded_now_and_then(s3_place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from raygseg.data import segment_table

    monkeypatch.setattr(segment_table, "UPLOAD_SECONDS", 0.0)
    with SegmentTable(s3_place, LABELS, "m", "", overlays=False) as table:
        table.add(row("a.png"))
        assert [line["file"] for line in lines(s3_place)] == ["a.png"]


@given(entries=st.lists(st.tuples(NAME, NAME), min_size=1, max_size=4), rows=st.sets(st.integers(0, 99), max_size=5))
def test_jobs_survive_the_journey_to_another_process(entries: list[tuple[str, str]], rows: set[int]) -> None:
    for job in (
        FileJob("s3://b/c", tuple(PictureEntry(*e) for e in entries)),
        TableJob("/x", f"{entries[0][0]}.parquet", 3, 40, 60, frozenset(rows)),
    ):
        text = job_to_text(job)
        assert text.isascii() and job_from_text(text) == job


@given(st.lists(st.tuples(NAME, st.sampled_from([".png", ".jpg", ".png.png", ""])), min_size=1, max_size=12))
def test_no_two_pictures_share_a_target(parts: list[tuple[str, str]]) -> None:
    names = sorted({stem + suffix for stem, suffix in parts})
    targets = [entry.target for entry in entries_of(names)]
    assert len(set(targets)) == len(names) and all(targets)


def test_surrogates_in_names_reach_the_table(tmp_path: Path) -> None:
    name = "caf\udce9.png"
    job = FileJob("/x", (PictureEntry(name, "caf\udce9"),))
    assert job_from_text(job_to_text(job)) == job
    with SegmentTable(str(tmp_path), LABELS, "m", "", overlays=False) as table:
        table.add(row(name))
    assert b"caf\xe9.png" in (tmp_path / "segments.csv").read_bytes()
