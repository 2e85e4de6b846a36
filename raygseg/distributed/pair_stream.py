"""Generated pairs as an endless training sequence, read from Parquet by Ray Data, chunk by chunk.

An epoch shows the shards in an order seeded by (seed, "pair-shards", epoch); `chunk_shards` of them in a
row form a chunk, whose rows are shuffled by (seed, "pair-rows", epoch, chunk). Picture number n is
therefore a function of n alone: no worker keeps a cursor, and a run goes on at the chunk that holds
its next picture. Rows beyond the quality cut are replaced by others of the same chunk, so positions do
not depend on how many were cut.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raygseg.data.object_store import expect_outages
from raygseg.data.pair_set import PairSet, keep_certain, read_table
from raygseg.data.pairs import spread, stored_images, top_two
from raygseg.data.sources import LabelledSet
from raygseg.data.streams import LabelledStream
from raygseg.distributed.worker_errors import own_error
from raygseg.errors import ConfigError, DataError
from raygseg.seeding import numpy_rng

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from raygseg.config.schema import SegmenterConfig

COLUMNS = ("image", "top2_classes", "top2_probabilities", "score", "seed")
KEPT_CHUNKS = 2  # a micro-batch may straddle two
Indices = NDArray[np.int64]
ReadShards = Callable[[list[int]], "Iterator[pa.Table]"]


class ChunkPlan:
    """Which shards and rows make picture number n.

    Args:
        rows: rows of every shard, in shard order.
        chunk_shards: shards a chunk.
        seed: decides all orders.
    """

    def __init__(self, rows: list[int], chunk_shards: int, seed: int) -> None:
        if sum(rows) == 0:
            raise DataError("the pair set is empty", "generate at least one pair")
        self.rows, self.chunk_shards, self.seed = np.asarray(rows, dtype=np.int64), chunk_shards, seed
        self.chunks_per_epoch = -(-len(rows) // chunk_shards)
        self._epoch: tuple[int, Indices, Indices] = (-1, self.rows, self.rows)

    def locate(self, number: int) -> tuple[int, int]:
        """(chunk counted over all epochs, place in the chunk) of pair `number`."""
        epoch, place = divmod(number, int(self.rows.sum()))
        _, starts = self._order(epoch)
        chunk = int(np.searchsorted(starts, place, side="right")) - 1
        return epoch * self.chunks_per_epoch + chunk, place - int(starts[chunk])

    def shards(self, chunk: int) -> list[int]:
        """The shards of a chunk, in reading order."""
        epoch, index = divmod(chunk, self.chunks_per_epoch)
        order, _ = self._order(epoch)
        return [int(i) for i in order[index * self.chunk_shards : (index + 1) * self.chunk_shards]]

    def row_order(self, chunk: int, kept: int) -> Indices:
        """For every place in the chunk the row shown there: permutations of the `kept` rows, one after another."""
        epoch, index = divmod(chunk, self.chunks_per_epoch)
        nominal = int(self.rows[self.shards(chunk)].sum())
        rng = numpy_rng(self.seed, "pair-rows", epoch, index)
        rounds = [rng.permutation(kept) for _ in range(-(-nominal // kept))]
        return np.concatenate(rounds)[:nominal]

    def _order(self, epoch: int) -> tuple[Indices, Indices]:
        """The epoch's order of shards, and the first place of every chunk."""
        if self._epoch[0] != epoch:
            order = numpy_rng(self.seed, "pair-shards", epoch).permutation(len(self.rows))
            firsts = np.concatenate([[0], np.cumsum(self.rows[order])])[: len(order)]
            self._epoch = (epoch, order, firsts[:: self.chunk_shards])
        return self._epoch[1], self._epoch[2]


class PairStream:
    """Implements `interfaces.Stream` for the student.

    `micro_batch` gives {"images": uint8 [n, 3, R, R], "probabilities": float32 [n, K, R, R]}; pixels of
    labelled pictures that are not labelled have zeros for all K.

    Args:
        run: seed, resolution, chunk_shards, uncertainty_cut, labelled_share.
        pairs: what `generate` wrote.
        labelled: pictures with masks, mixed in evenly at `labelled_share`.
        read: how shards are read; default: Ray Data where Ray runs, else one file after another.
    """

    def __init__(
        self, run: SegmenterConfig, pairs: PairSet, labelled: LabelledSet | None = None, read: ReadShards | None = None
    ) -> None:
        if labelled is not None and not 0 < run.labelled_share < 1:
            raise ConfigError(
                f"labelled_share: {run.labelled_share} with both 'pairs' and 'labelled'",
                "set it between 0 and 1 (0.25 shows one labelled picture in four), or leave one of the two out",
            )
        self.pairs, self.resolution = pairs, run.resolution
        self.plan = ChunkPlan([shard.rows for shard in pairs.shards], run.chunk_shards, run.seed)
        self.threshold = pairs.score_cut(run.uncertainty_cut) if run.uncertainty_cut > 0 else np.inf
        self.labelled = LabelledStream(labelled, run.seed) if labelled is not None else None
        self.share = Fraction(run.labelled_share).limit_denominator(1000) if labelled is not None else Fraction(0)
        self._read = read or _reader(pairs)
        self._chunks: dict[int, tuple[pa.Table, Indices]] = {}
        self._source: Iterator[pa.Table] = iter(())
        self._next = -1
        self._ahead: Future[tuple[pa.Table, Indices]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pairs")

    def micro_batch(self, first: int, count: int) -> Mapping[str, Tensor]:
        """Pictures number first .. first + count - 1, pairs and labelled ones."""
        import torch

        numbers = range(first, first + count)
        labelled = [self._is_labelled(n) for n in numbers]
        images, probabilities = self._pairs([n - self._labelled_before(n) for n in numbers if not self._is_labelled(n)])
        if not any(labelled):
            return {"images": images, "probabilities": probabilities}
        real_images, real = self._labelled([self._labelled_before(n) for n in numbers if self._is_labelled(n)])
        places = torch.tensor(labelled)
        mixed_images = torch.empty(count, *real_images.shape[1:], dtype=torch.uint8)
        mixed = torch.empty(count, *real.shape[1:])
        mixed_images[places], mixed_images[~places] = real_images, images
        mixed[places], mixed[~places] = real, probabilities
        return {"images": mixed_images, "probabilities": mixed}

    def close(self) -> None:
        """Stop reading ahead."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        close = getattr(self._source, "close", None)  # a generator holds a running Ray Data execution
        if close is not None:
            close()

    def _labelled_before(self, number: int) -> int:
        """How many of the first `number` pictures are labelled ones."""
        return number * self.share.numerator // self.share.denominator

    def _is_labelled(self, number: int) -> bool:
        return self._labelled_before(number + 1) > self._labelled_before(number)

    def _labelled(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Labelled pictures with their masks as probabilities of 0 and 1."""
        import torch

        assert self.labelled is not None
        batch = self.labelled.micro_batch(numbers[0], len(numbers))
        classes = torch.arange(self.pairs.labels.num_classes)[None, :, None, None]
        return batch["images"], (batch["labels"][:, None] == classes).float()

    def _pairs(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        import torch

        count = self.pairs.labels.num_classes
        if not numbers:
            side = self.resolution
            return torch.empty(0, 3, side, side, dtype=torch.uint8), torch.empty(0, count, side, side)
        places: dict[int, list[int]] = {}
        for number in numbers:
            chunk, place = self.plan.locate(number)
            places.setdefault(chunk, []).append(place)
        pieces = []
        for chunk, wanted in places.items():
            table, order = self._chunk(chunk)
            pieces.append(table.take(order[wanted]))
        table = _concatenated(pieces)
        classes, levels = top_two(table)
        probabilities = spread(torch.from_numpy(classes), torch.from_numpy(levels), count)
        return self._resized(torch.from_numpy(stored_images(table)), probabilities)

    def _resized(self, images: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """To the run's resolution, where the pairs have another."""
        if images.shape[-1] == self.resolution:
            return images, probabilities
        resize: dict[str, Any] = {"size": self.resolution, "mode": "bilinear", "antialias": True}
        from torch.nn.functional import interpolate

        resized = interpolate(images.float(), **resize).round().clamp(0, 255)
        return resized.to(images.dtype), interpolate(probabilities, **resize)

    # --- chunks ----------------------------------------------------------------------------------

    def _chunk(self, chunk: int) -> tuple[pa.Table, Indices]:
        """A chunk's rows and their order; the chunk after it is fetched in the background."""
        if chunk not in self._chunks:
            if self._ahead is None or not self._next <= chunk <= self._next + self.plan.chunks_per_epoch:
                self._restart(chunk)
            while chunk not in self._chunks:
                assert self._ahead is not None
                self._chunks[self._next] = self._ahead.result()
                self._next += 1
                self._ahead = self._thread.submit(self._fetch, self._next)
            while len(self._chunks) > KEPT_CHUNKS:
                self._chunks.pop(min(self._chunks))
        return self._chunks[chunk]

    def _restart(self, chunk: int) -> None:
        """Read from `chunk` on."""
        if self._ahead is not None:
            self._ahead.cancel()
        self._chunks, self._next = {}, chunk
        self._source = self._tables(chunk)
        self._ahead = self._thread.submit(self._fetch, chunk)

    def _fetch(self, chunk: int) -> tuple[pa.Table, Indices]:
        table = next(self._source)
        if np.isfinite(self.threshold):
            table = keep_certain(table, self.threshold)
        if table.num_rows == 0:
            raise DataError(
                f"{self.pairs.uri}: no pair of a chunk passes the quality cut",
                "raise chunk_shards, lower uncertainty_cut",
            )
        return table, self.plan.row_order(chunk, table.num_rows)

    def _tables(self, chunk: int) -> Iterator[pa.Table]:
        """The chunks from `chunk` on, for ever; one reading a (rest of an) epoch."""
        while True:
            end = (chunk // self.plan.chunks_per_epoch + 1) * self.plan.chunks_per_epoch
            lists = [self.plan.shards(c) for c in range(chunk, end)]
            tables = self._read([shard for shards in lists for shard in shards])
            for shards in lists:
                yield _concatenated([next(tables) for _ in shards])
            chunk = end


def _concatenated(tables: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([table.select(list(COLUMNS)) for table in tables]).combine_chunks()


# --- reading -------------------------------------------------------------------------------------


def _reader(pairs: PairSet) -> ReadShards:
    ray = sys.modules.get("ray")  # not imported: a run in this process does without Ray
    return ray_reader(pairs) if ray is not None and ray.is_initialized() else file_reader(pairs)


def file_reader(pairs: PairSet) -> ReadShards:
    """One file after another in this process."""

    def read(shards: list[int]) -> Iterator[pa.Table]:
        known = pairs.shards
        return (pairs.read(known[i], COLUMNS) for i in shards)

    return read


def ray_reader(pairs: PairSet) -> ReadShards:
    """A Ray Data stream over the files in the order asked for, cut back into shards by their row counts."""

    def read(shards: list[int]) -> Iterator[pa.Table]:
        uris, rows = pairs.shard_uris, [shard.rows for shard in pairs.shards]
        return _cut(_blocks([uris[i] for i in shards]), [rows[i] for i in shards], pairs.uri)

    return read


def _blocks(uris: list[str]) -> Iterator[pa.Table]:
    """Rows of the files, in order, as Ray Data's tasks read them ahead.

    Not `read_parquet`: it lists the files in a task of one CPU, for which it would wait for ever where
    the training workers hold every CPU of the cluster.
    """
    import ray.data

    from raygseg.distributed import cluster

    context = cluster.quiet_data()
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True  # else a damaged file's name is lost
    files = ray.data.from_items([{"uri": uri} for uri in uris], override_num_blocks=len(uris))
    dataset = files.map_batches(_read_file, batch_size=1, batch_format="pyarrow", num_cpus=0)
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    except ray.exceptions.RayTaskError as error:
        own = own_error(error)
        raise own if own is not None else error from error


def _read_file(batch: pa.Table) -> pa.Table:
    expect_outages()
    return read_table(batch.column("uri")[0].as_py(), COLUMNS)


def _cut(blocks: Iterator[pa.Table], rows: list[int], where: str) -> Iterator[pa.Table]:
    """Tables of exactly `rows` rows each out of blocks of any size. DataError where rows are missing."""
    import pyarrow as pa

    held: list[pa.Table] = []
    for wanted in rows:
        while sum(table.num_rows for table in held) < wanted:
            block = next(blocks, None)
            if block is None:
                raise DataError(f"{where}: fewer rows than its manifest says", "run the same `raygseg generate` again")
            held.append(block)
        table = pa.concat_tables(held)
        yield table.slice(0, wanted)
        held = [table.slice(wanted)]
