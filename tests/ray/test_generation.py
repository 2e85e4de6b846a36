"""Generation on Ray: the same rows whatever the number of actors and whoever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import ray.cloudpickle
import torch

from raygseg.data.pair_set import PairSet
from raygseg.data.pairs import seeds_of
from raygseg.data.shards import Manifest, read_manifest
from raygseg.distributed.generation import ActorPool, Progress, generate_pairs
from raygseg.errors import DataError, FingerprintError, StorageError
from raygseg.interfaces import Pairs
from raygseg.labels import LabelSpace
from raygseg.seeding import torch_rng

# Actors cannot import a test file: its functions and classes travel by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.timeout(600)  # seconds where cores are free; starting actors takes long where they are not
LABELS = LabelSpace(("background", "a", "b", "c"))
ROWS, ROWS_PER_SHARD = 2000, 100


class NoiseSampler:
    """Pairs that depend on their seed only, at 16 px; `bad_seed` makes a row that cannot be stored.

    With `fatal` (a file) the first actor to reach `fatal_seed` kills its own process, once.
    """

    labels = LABELS
    resolution = 16

    def __init__(self, delay: float = 0.0, bad_seed: int = -1, fatal: str = "", fatal_seed: int = 1000) -> None:
        self.delay, self.bad_seed, self.fatal, self.fatal_seed = delay, bad_seed, fatal, fatal_seed

    def sample(self, seeds: Sequence[int]) -> Pairs:
        time.sleep(self.delay * len(seeds))
        if self.fatal and self.fatal_seed in seeds and not os.path.exists(self.fatal):
            Path(self.fatal).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        rngs = [torch_rng(seed, "noise") for seed in seeds]
        images = [torch.randint(0, 256, (3, 16, 16), generator=g, dtype=torch.uint8) for g in rngs]
        logits = [3 * torch.randn(4, 16, 16, generator=g) for g in rngs]
        scores = torch.stack([torch.rand((), generator=g) for g in rngs])
        if self.bad_seed in seeds:
            scores[list(seeds).index(self.bad_seed)] = float("nan")
        return Pairs(torch.stack(images), torch.stack(logits).softmax(1), scores)


def dying_sampler(fatal: str, device: str) -> NoiseSampler:
    return NoiseSampler(fatal=fatal)


def wanted(rows: int = ROWS) -> Manifest:
    settings = {"sampler": "noise", "first_seed": 0, "batch_size": 32, "image_format": "png"}
    return Manifest(settings, LABELS, 16, (rows,), ROWS_PER_SHARD)


def check(output: Path) -> str:
    """Every seed once; the checksum."""
    pairs = PairSet.open(str(output))
    seeds = [seed for table in pairs.tables() for seed in seeds_of(table).tolist()]
    assert seeds == list(range(len(pairs)))
    return pairs.checksum()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> str:
    """The checksum of 2,000 rows by one actor; the set is used for nothing else."""
    output = tmp_path_factory.mktemp("undisturbed")
    manifest = generate_pairs(lambda device: NoiseSampler(), str(output), wanted(), pool=ActorPool(actors=1))
    assert manifest.complete and manifest.pairs_per_second > 0
    return check(output)


def test_three_actors_of_which_one_dies_give_the_rows_of_one(tmp_path: Path, undisturbed: str) -> None:
    fatal, told = str(tmp_path / "fatal"), list[Progress]()
    load = partial(dying_sampler, fatal)
    generate_pairs(load, str(tmp_path / "set"), wanted(), pool=ActorPool(3), progress=told.append)
    assert Path(fatal).exists(), "no actor died"
    assert check(tmp_path / "set") == undisturbed
    assert told[0].done == 0 and told[-1].done == told[-1].total == ROWS
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert any(p.seconds_left for p in told)
    assert not list((tmp_path / "set").rglob("*.tmp"))


def test_an_error_of_the_sampler_reaches_the_caller_and_shards_stay(tmp_path: Path, ray_cluster: None) -> None:
    with pytest.raises(DataError, match="seed 350: its score is not finite"):
        generate_pairs(lambda device: NoiseSampler(bad_seed=350), str(tmp_path), wanted(600), pool=ActorPool(1))
    there = sorted(p.name for p in (tmp_path / "pairs").iterdir())
    assert there[:2] == ["pairs-000000000000.parquet", "pairs-000000000100.parquet"]
    with pytest.raises(FingerprintError, match="sampler: 'noise' -> 'other'"):
        other = Manifest({**wanted().settings, "sampler": "other"}, LABELS, 16, (600,), ROWS_PER_SHARD)
        generate_pairs(lambda device: NoiseSampler(), str(tmp_path), other)
    generate_pairs(lambda device: NoiseSampler(), str(tmp_path), wanted(600), pool=ActorPool(1))
    assert len(check(tmp_path)) == 32


def test_extending_and_running_again(tmp_path: Path, undisturbed: str, ray_cluster: None) -> None:
    generate_pairs(lambda device: NoiseSampler(), str(tmp_path), wanted(730), pool=ActorPool(2))
    manifest = generate_pairs(lambda device: NoiseSampler(), str(tmp_path), wanted(), "extend", ActorPool(2))
    assert manifest.totals == (730, ROWS)
    assert check(tmp_path) == undisturbed
    shards = {p: p.stat().st_mtime_ns for p in (tmp_path / "pairs").iterdir()}

    def refuse(device: str) -> NoiseSampler:
        raise AssertionError("nothing is left to sample")

    assert generate_pairs(refuse, str(tmp_path), wanted(), "resume") == manifest
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "pairs").iterdir()} == shards


# --- what kills the driver needs a process of its own -----------------------------------------------

DRIVER = """
import sys
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("generation_driver", {file!r})
module = importlib.util.module_from_spec(spec)
sys.modules["generation_driver"] = module
spec.loader.exec_module(module)
module.drive({output!r}, {delay!r}, {rows!r})
"""


def drive(output: str, delay: float, rows: int) -> None:
    """The driver process: generate with two actors, exit with the error's code."""
    from raygseg.errors import RaygsegError

    try:
        generate_pairs(lambda device: NoiseSampler(delay), output, wanted(rows), pool=ActorPool(2))
    except RaygsegError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def start_driver(output: Path, delay: float, rows: int = ROWS) -> subprocess.Popen[str]:
    """A driver that joins the session's cluster."""
    code = DRIVER.format(tests=str(Path(__file__).parent), file=__file__, output=str(output), delay=delay, rows=rows)
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)


def committed(output: Path) -> int:
    return len(list(output.glob("stats/*.json")))


def test_a_killed_driver_goes_on_where_it_stopped(tmp_path: Path, undisturbed: str) -> None:
    output = tmp_path / "set"
    driver = start_driver(output, delay=0.004)
    deadline = time.monotonic() + 300
    while committed(output) < 5:
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    survived = {p.name for p in output.glob("stats/*.json")}
    assert 5 <= len(survived) < ROWS // ROWS_PER_SHARD
    manifest = read_manifest(str(output))
    assert manifest is not None and not manifest.complete
    (output / "pairs/.pairs-000000001900.parquet.99-ab.tmp").write_bytes(b"half a shard")
    told: list[Progress] = []
    generate_pairs(lambda device: NoiseSampler(), str(output), wanted(), pool=ActorPool(3), progress=told.append)
    assert told[0].done >= len(survived) * ROWS_PER_SHARD
    assert check(output) == undisturbed
    assert not list(output.rglob("*.tmp"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_real_disk_that_fills_up(tmp_path: Path, undisturbed: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        driver = start_driver(disk / "set", delay=0.0)
        _, stderr = driver.communicate(timeout=300)
        assert driver.returncode == StorageError.exit_code == 1, stderr
        assert "No space left on device" in stderr and str(disk) in stderr and "disk is full" in stderr
        there = committed(disk / "set")
        assert 1 <= there < ROWS // ROWS_PER_SHARD
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        generate_pairs(lambda device: NoiseSampler(), str(disk / "set"), wanted(), pool=ActorPool(2))
        assert check(disk / "set") == undisturbed
        assert json.loads((disk / "set/manifest.json").read_text())["complete"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
