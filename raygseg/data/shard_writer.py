"""Make shards of pairs: sample, encode, write whole. Knows a PairSampler and a place, and no Ray.

Sampling never waits for the disk or the network: batches are encoded by one thread and finished
shards written by another while the next batch is being sampled. What is held in memory is one shard
being sampled and one being written, whatever the number of rows.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raygseg.data.object_store import exists, put_if_absent, read_bytes
from raygseg.data.pair_set import read_table
from raygseg.data.pairs import encode_pairs, seeds_of, table_bytes
from raygseg.data.shard_stats import ShardStats, shard_stats
from raygseg.data.shards import Manifest, Shard, batches, write_stats
from raygseg.errors import DataError
from raygseg.interfaces import Pairs, PairSampler

if TYPE_CHECKING:
    import pyarrow as pa

BACKLOG = 2  # sampled batches that may wait for the encoder


@dataclass(frozen=True)
class Recording:
    """How rows become a shard; the part of the settings that the writer needs.

    Row i has seed first_seed + i and is sampled in batches of batch_size, cut as `shards.batches` says.
    """

    output: str
    rows_per_shard: int
    batch_size: int
    first_seed: int
    image_format: str

    @classmethod
    def of(cls, output: str, manifest: Manifest) -> Recording:
        """From the manifest's settings. Raises DataError where one is missing."""
        settings: Mapping[str, Any] = manifest.settings
        try:
            return cls(
                output,
                manifest.rows_per_shard,
                int(settings["batch_size"]),
                int(settings["first_seed"]),
                str(settings["image_format"]),
            )
        except KeyError as error:
            hint = "generate with mode=overwrite"
            raise DataError(f"{output}: the manifest's settings lack {error}", hint) from error


class ShardWriter:
    """Writes shards of one set with one sampler. Close it, or use it as a context manager."""

    def __init__(self, sampler: PairSampler, recording: Recording) -> None:
        self._sampler, self._recording = sampler, recording
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._finisher = ThreadPoolExecutor(1, "write")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads; what waits is dropped."""
        self._encoder.shutdown(wait=False, cancel_futures=True)
        self._finisher.shutdown(wait=False, cancel_futures=True)

    def write(self, shards: Iterable[Shard]) -> Iterator[ShardStats]:
        """Write each shard and yield its statistics once it is safely there.

        A shard that another writer has put there is not sampled again; its statistics are read off it.

        Raises:
            StorageError: the place refuses (full disk, missing bucket); finished shards stay.
            DataError: the sampler gives values that are not finite.
        """
        waiting: Future[ShardStats] | None = None
        for shard in shards:
            began = time.perf_counter()
            if exists(shard.pairs_uri(self._recording.output)):
                following = self._finisher.submit(self._recount, shard)
            else:
                encoded = self._sample(shard)
                following = self._finisher.submit(self._finish, shard, encoded, began)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()

    def _sample(self, shard: Shard) -> list[Future[pa.Table]]:
        """Sample all batches, each handed to the encoder at once."""
        encoded: list[Future[pa.Table]] = []
        first_seed = self._recording.first_seed
        for rows, kept in batches(shard, self._recording.rows_per_shard, self._recording.batch_size):
            seeds = [first_seed + row for row in rows]
            pairs = self._sampler.sample(seeds)
            if len(encoded) >= BACKLOG:
                encoded[-BACKLOG].result()
            encoded.append(self._encoder.submit(self._encode, Pairs(*(part[kept] for part in pairs)), seeds[kept]))
        return encoded

    def _encode(self, pairs: Pairs, seeds: list[int]) -> pa.Table:
        return encode_pairs(pairs, seeds, self._sampler.labels, self._recording.image_format)

    def _finish(self, shard: Shard, encoded: list[Future[pa.Table]], began: float) -> ShardStats:
        """Put the shard, then its statistics."""
        import pyarrow as pa

        table = pa.concat_tables([future.result() for future in encoded])
        content = table_bytes(table)
        if not put_if_absent(shard.pairs_uri(self._recording.output), content):
            return self._recount(shard)
        return self._note(shard, table, content, time.perf_counter() - began)

    def _recount(self, shard: Shard) -> ShardStats:
        """Statistics of a shard that is there already. Raises DataError where it is not that shard."""
        where = shard.pairs_uri(self._recording.output)
        table = read_table(where)
        first = self._recording.first_seed + shard.first_row
        if seeds_of(table).tolist() != list(range(first, first + shard.rows)):
            last = first + shard.rows - 1
            raise DataError(f"{where}: holds other seeds than {first}-{last}", "delete it and run the command again")
        return self._note(shard, table, read_bytes(where), 0.0)

    def _note(self, shard: Shard, table: pa.Table, content: bytes, seconds: float) -> ShardStats:
        classes = self._sampler.labels.num_classes
        stats = shard_stats(table, content, shard.first_row, classes, seconds, socket.gethostname())
        write_stats(self._recording.output, shard, stats)
        return stats


def stats_to_text(stats: ShardStats) -> str:
    """For the way between processes."""
    return json.dumps(stats.to_dict())


def stats_from_text(text: str) -> ShardStats:
    return ShardStats.from_dict(json.loads(text))
