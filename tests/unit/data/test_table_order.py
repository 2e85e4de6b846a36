from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from raygseg.data import streams
from raygseg.data.parquet_rows import ParquetRows
from raygseg.data.picture_files import encode_png
from raygseg.data.sources import open_pictures
from raygseg.data.streams import PictureStream
from raygseg.data.table_order import Portions, TableOrder

PORTIONS = Portions(2, 4)


def blocks(sizes: list[int]) -> list[np.ndarray]:
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return [np.arange(a, b) for a, b in itertools.pairwise(starts)]


def lane_of(number: int, portions: Portions = PORTIONS) -> int:
    return number // portions.size % portions.lanes


@given(st.lists(st.integers(1, 9), min_size=4, max_size=20), st.integers(1, 5), st.integers(0, 3))
def test_a_lane_shows_each_of_its_rows_once_an_epoch_of_its_own(sizes: list[int], window: int, seed: int) -> None:
    order = TableOrder(blocks(sizes), seed, PORTIONS, window)
    seen: dict[int, list[int]] = {lane: [] for lane in range(4)}
    for number in range(8 * 2 * sum(sizes)):
        seen[lane_of(number)].append(order.index(number))
    epochs = []
    for shown in seen.values():
        size = len(set(shown))
        assert sorted(shown[:size]) == sorted(shown[size : 2 * size]) == sorted(set(shown))
        epochs += shown[:size]
    assert sorted(epochs) == list(range(sum(sizes))), "the lanes share the table"


def test_any_position_may_be_asked_for_first() -> None:
    table = blocks([5, 3, 8, 8, 2, 7, 1, 4])
    whole = [TableOrder(table, 1, PORTIONS, 2).index(number) for number in range(300)]
    fresh = TableOrder(table, 1, PORTIONS, 2)
    assert [fresh.index(number) for number in reversed(range(300))] == whole[::-1]
    assert whole != [TableOrder(table, 2, PORTIONS, 2).index(number) for number in range(300)]


def test_a_lane_turns_to_the_blocks_it_announced() -> None:
    table = blocks([6] * 16)
    block_of = {row: number for number, rows in enumerate(table) for row in rows.tolist()}
    order = TableOrder(table, 0, PORTIONS, 2)
    rows = [number for number in range(8 * 48) if lane_of(number) == 1]
    windows = [{block_of[order.index(n)] for n in rows[first : first + 12]} for first in range(0, len(rows), 12)]
    assert all(len(window) == 2 for window in windows), "twelve rows of two blocks, then two others"
    for first, coming in zip(range(0, len(rows), 12), windows[1:], strict=False):
        assert set(order.ahead(rows[first])) == coming


@pytest.fixture
def table(tmp_path: Path) -> str:
    """16 row groups of 4 pictures whose colour is their row."""
    pictures = [encode_png(np.full((4, 4, 3), row, np.uint8)) for row in range(64)]
    for part in range(2):
        rows = pa.table({"image": pictures[32 * part : 32 * (part + 1)]})
        parquet.write_table(rows, tmp_path / f"{part}.parquet", row_group_size=4)
    return str(tmp_path)


def test_a_large_table_is_read_block_by_block_and_each_host_reads_its_own(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LARGE", 0)
    pictures = open_pictures(table, 4, cache_limit=0)
    rows = pictures._rows
    assert isinstance(rows, ParquetRows)
    shown: list[list[int]] = []
    hosts: list[set[int]] = []
    for host in range(2):
        stream = PictureStream(pictures, 0, flip=False, portions=PORTIONS)
        mine, groups = [], set()
        for step in range(8):
            for micro in (2 * host, 2 * host + 1):
                images = stream.micro_batch(8 * step + 2 * micro, 2)["images"]
                found = images[:, 0, 0, 0].tolist()
                mine += found
                groups |= {row // 4 for row in found}
        shown.append(mine)
        hosts.append(groups)
    assert sorted(shown[0] + shown[1]) == list(range(64)), "an epoch"
    assert hosts[0].isdisjoint(hosts[1]) and len(hosts[0] | hosts[1]) == 16


def test_a_small_table_keeps_the_order_of_its_pictures_alone(table: str) -> None:
    pictures = open_pictures(table, 4)
    plain, portioned = (PictureStream(pictures, 3, False, portions) for portions in (None, PORTIONS))
    assert (plain.micro_batch(0, 40)["images"] == portioned.micro_batch(0, 40)["images"]).all()
