"""Public weights become ours, tensor for tensor; hostile, damaged and foreign files are refused by name."""

from __future__ import annotations

import argparse
import builtins
import io
import os
import pickle
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raygseg.errors import CheckpointError
from raygseg.methods.stylegan2.importers import open_weights, snapshot
from tests.unit.methods.stylegan2.public_layouts import (
    Record,
    dump,
    networks,
    nvidia_discriminator,
    nvidia_generator,
    public_names,
    rosinality_discriminator,
    rosinality_generator,
)


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


# --- what must come through ----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nvidia_layout_comes_through(protocol: int, tmp_path: Path) -> None:
    generator, discriminator = networks()
    with public_names() as names:
        settings = names.EasyDict(path="pictures", sizes=[1, 2.5, None, True], gain=np.sqrt(2.0))
        document = {"G": None, "G_ema": nvidia_generator(generator), "D": nvidia_discriminator(discriminator)}
        file = tmp_path / "snapshot.pkl"
        file.write_bytes(pickle.dumps({**document, "training_set_kwargs": settings}, protocol))
    source = open_weights(file)
    assert (source.format, source.networks) == ("nvidia", ("average", "discriminator"))
    weights, judge = source.generator(), source.discriminator()
    assert weights.build == generator.build
    for ours, theirs in ((generator, weights), (discriminator, judge)):
        state = ours.state_dict()
        assert state.keys() == theirs.tensors.keys()
        assert all(torch.equal(state[name], theirs.tensors[name]) for name in state)
    assert judge.build["mbstd_group"] == 4


def test_plain_values_come_through(tmp_path: Path) -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    values = {
        "array": array,
        "fortran": np.asfortranarray(array),
        "scalar": np.float64(2.5),
        "sets": {1, 2},
        "bytes": b"\x00\xff",
        "half": torch.arange(4.0).half().reshape(2, 2).t(),
        "empty": torch.empty(0),
        "size": torch.Size([1, 2]),
        "twice": [array, array],
    }
    for protocol in (2, 4):
        read = snapshot.read_snapshot(dump(tmp_path / "plain.pkl", values, protocol))
        for name in ("array", "fortran"):
            np.testing.assert_array_equal(read[name], array)
        assert read["scalar"] == 2.5
        assert (read["sets"], read["bytes"], read["size"]) == ({1, 2}, b"\x00\xff", (1, 2))
        assert torch.equal(read["half"], values["half"])
        assert read["empty"].shape == (0,)
        assert read["twice"][0] is read["twice"][1]


def test_rosinality_layout_comes_through(tmp_path: Path) -> None:
    generator, discriminator = networks()
    state = rosinality_generator(generator)
    document = {"g": state, "g_ema": state, "d": rosinality_discriminator(discriminator)}
    extra = {"args": argparse.Namespace(size=16), "ada_aug_p": 0.0, "latent_avg": generator.mapping.w_avg[None]}
    file = tmp_path / "000001.pt"
    torch.save({**document, **extra}, file)
    source = open_weights(file)
    assert (source.format, source.networks) == ("rosinality", ("average", "generator", "discriminator"))
    for ours, theirs in ((generator, source.generator()), (discriminator, source.discriminator())):
        wanted = ours.state_dict()
        assert wanted.keys() == theirs.tensors.keys()
        assert all(torch.equal(wanted[name], theirs.tensors[name]) for name in wanted)
    assert source.generator().build == generator.build


def test_mean_of_w_is_estimated_where_a_checkpoint_has_none(tmp_path: Path) -> None:
    generator, _ = networks()
    torch.save({"g_ema": rosinality_generator(generator)}, tmp_path / "plain.pt")
    weights = open_weights(tmp_path / "plain.pt").generator()
    with torch.no_grad():
        mean = generator.mapping(torch.randn(50_000, 8, generator=torch.Generator().manual_seed(3))).mean(dim=0)
        spread = generator.mapping(torch.randn(1000, 8)).std(dim=0)
    assert "estimated" in weights.notes["w_avg"]
    assert bool(((weights.tensors["mapping.w_avg"] - mean).abs() < 0.05 * spread).all())


# --- what must not -------------------------------------------------------------------------------


def nested(content: Any) -> bytes:
    """A file of torch.save with something else than a storage in it."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


HOSTILE: dict[str, tuple[Callable[[str], Any], str]] = {
    "os.system": (lambda marker: Call(os.system, f"touch {marker}"), "posix.system"),
    "eval": (lambda marker: Call(eval, f"open({marker!r}, 'w')"), "builtins.eval"),
    "exec": (lambda marker: Call(exec, f"open({marker!r}, 'w')"), "builtins.exec"),
    "getattr": (lambda _: Call(getattr, Record("x"), "source"), "builtins.getattr"),
    "open": (lambda marker: Call(builtins.open, marker, "w"), "io.open"),
    "subprocess": (lambda marker: Call(subprocess.Popen, ["touch", marker]), "subprocess.Popen"),
    "torch.load": (lambda _: Call(torch.load, "x"), "torch.serialization.load"),
    "torch.nn": (lambda _: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "import": (lambda _: Call(__import__, "os"), "builtins.__import__"),
    "in a record": (lambda m: Record("G", state=Call(os.system, f"touch {m}")), "posix.system"),
    "nested storage": (
        lambda m: Call(torch.storage._load_from_bytes, nested(Call(os.system, f"touch {m}"))),
        "posix.system",
    ),
    "object array": (lambda _: np.array([os.system], dtype=object), "arrays of 'O8'"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_is_refused_by_name(name: str, protocol: int, tmp_path: Path) -> None:
    make, refused = HOSTILE[name]
    marker = tmp_path / "marker"
    file = dump(tmp_path / "hostile.pkl", {"G_ema": make(str(marker))}, protocol)
    with pytest.raises(CheckpointError) as caught:
        open_weights(file)
    assert refused in str(caught.value)
    assert str(file) in str(caught.value)
    assert not marker.exists()


def test_source_text_of_a_record_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    generator, _ = networks()
    record = nvidia_generator(generator)
    record.source = f"open({str(marker)!r}, 'w')"
    assert open_weights(dump(tmp_path / "snapshot.pkl", {"G_ema": record})).generator().build == generator.build
    assert not marker.exists()


@pytest.mark.parametrize(
    ("program", "refused"),
    [
        (b"cos\nsystem\n(S'x'\ntR.", "os.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "posix.system"),
        (b"(S'x'\nios\nsystem\n.", "the instruction INST"),
        (b"\x82\x01.", "the instruction EXT1"),
        (b"\x80\x05\x97.", "the instruction NEXT_BUFFER"),
        (b"Pabc\n.", "the instruction PERSID"),
        (b"S'a'\n(tR.", "a call of a str"),
        (b"ctorch\nfloat32\n(tR.", "a call of torch.float32"),
        (b"}(S'a'\nNtb.", "setting the state of a dict"),
        (b"cdnnlib.tflib.network\nNetwork\n.", "legacy.py"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"ctorch_utils.persistence\n_reconstruct_persistent_obj.__globals__\n.", "__globals__"),
    ],
)
def test_instruction_is_refused(program: bytes, refused: str, tmp_path: Path) -> None:
    (tmp_path / "small.pkl").write_bytes(program)
    with pytest.raises(CheckpointError, match="refused") as caught:
        open_weights(tmp_path / "small.pkl")
    assert refused in str(caught.value)


@pytest.mark.parametrize("program", [b"", b"N", b".", b"0.", b"\x8e" + b"\xff" * 8 + b".", b"(.", b"]]s.", b"](tNs."])
def test_broken_program_is_an_error_of_ours(program: bytes, tmp_path: Path) -> None:
    (tmp_path / "small.pkl").write_bytes(program)
    with pytest.raises(CheckpointError, match=r"not a whole pickle|without any of"):
        open_weights(tmp_path / "small.pkl")


def test_keys_are_scalars(tmp_path: Path) -> None:
    """Hashing a tuple of tuples of tuples would take time exponential in the file's size."""
    with pytest.raises(CheckpointError, match="a tuple as a key"):
        open_weights(dump(tmp_path / "keys.pkl", {((1, 2), 3): 4}))


def test_module_that_holds_itself_is_refused(tmp_path: Path) -> None:
    shared = Record("shared")
    root = Record("Generator", c_dim=0, img_resolution=8)
    root.state["_modules"] = {"a": shared, "b": shared}
    with pytest.raises(CheckpointError, match="held twice"):
        open_weights(dump(tmp_path / "twice.pkl", {"G_ema": root})).generator()


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("suffix", [".pkl", ".pt"])
def test_truncated_file_is_said_to_be(suffix: str, kept: float, tmp_path: Path) -> None:
    generator, _ = networks()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pkl":
        dump(file, {"G_ema": nvidia_generator(generator)})
    else:
        torch.save({"g_ema": rosinality_generator(generator)}, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match=r"not a whole pickle|cannot be read") as caught:
        open_weights(file)
    assert str(file) in str(caught.value)


def test_altered_bytes_give_an_error_of_ours_or_a_network(tmp_path: Path) -> None:
    generator, _ = networks()
    file = dump(tmp_path / "snapshot.pkl", {"G_ema": nvidia_generator(generator), "a": np.arange(3.0)})
    content, draw = file.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        altered = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            altered[draw.randrange(len(altered))] = draw.randrange(256)
        file.write_bytes(bytes(altered))
        try:
            open_weights(file).generator()
        except CheckpointError:
            refused += 1
    assert 50 < refused < 150


def test_rosinality_file_with_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"g_ema": Call(os.system, f"touch {marker}")}, tmp_path / "hostile.pt")
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        open_weights(tmp_path / "hostile.pt")
    assert not marker.exists()


def test_storage_must_hold_what_it_announces() -> None:
    content = nested(torch.tensor([1.0, 2.0])._typed_storage())
    assert torch.equal(snapshot._load_storage(content, "file"), torch.tensor([1.0, 2.0]))
    # An announced size of 2^40 numbers must not be allocated; it is compared with the bytes that are there.
    huge = content.replace(b"K\x02N", b"\x8a\x06\x00\x00\x00\x00\x00\x01N")
    assert huge != content
    with pytest.raises(ValueError, match="a storage of"):
        snapshot._load_storage(huge, "file")
    with pytest.raises(ValueError, match="a storage of 2 numbers in 7 bytes"):
        snapshot._load_storage(content[:-1], "file")


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (2**40,), (0,)), (3, (2,), (1,)), (-1, (1,), (1,)), (0, (2, 2), (3, 1)), (0, (4,), (1, 1))],
)
def test_view_beyond_its_storage_is_refused(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, TypeError)):
        snapshot._rebuild_tensor(torch.zeros(4), offset, size, stride, False, {})


# --- networks that are not ours ------------------------------------------------------------------


def _conditional(record: Record) -> None:
    record.state["c_dim"] = 10


def _resnet(record: Record) -> None:
    record.at("synthesis.b8").state["architecture"] = "resnet"


def _filter(record: Record) -> None:
    record.at("synthesis.b8").state["_buffers"]["resample_filter"] = torch.ones(4, 4)


def _multiplier(record: Record) -> None:
    record.at("mapping.fc0").state["bias_gain"] = 1.0


def _missing(record: Record) -> None:
    del record.at("synthesis.b8.conv0").state["_parameters"]["bias"]


def _unknown(record: Record) -> None:
    record.put("synthesis.b8.skip.weight", torch.zeros(2))


def _shape(record: Record) -> None:
    record.put("synthesis.b8.conv0.bias", torch.zeros(7))


def _widths(record: Record) -> None:
    record.put("synthesis.b4.conv1.weight", torch.zeros(3, 3, 3, 3))


def _not_finite(record: Record) -> None:
    record.put("mapping.fc1.weight", torch.full((8, 8), torch.nan))


def _alias_free(record: Record) -> None:
    record.at("synthesis.input")


def _size(record: Record) -> None:
    record.state["img_resolution"] = "16"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_conditional, "c_dim 10"),
        (_resnet, "synthesis.b8 of architecture 'resnet'"),
        (_filter, "synthesis.b8.resample_filter is not the filter"),
        (_multiplier, "multiplier 1.0"),
        (_missing, "misses synthesis.b8.conv0.bias"),
        (_unknown, "unknown synthesis.b8.skip.weight"),
        (_shape, "synthesis.b8.conv0.bias has the shape [7], [16] was expected"),
        (_widths, "3 at 4 px, 16 at 8 px, 8 at 16 px"),
        (_not_finite, "mapping.fc1.weight holds numbers that are not finite"),
        (_alias_free, "StyleGAN3"),
        (_size, "img_resolution is '16'"),
    ],
)
def test_other_network_is_refused_by_what_differs(change: Callable[[Record], None], words: str, tmp_path: Path) -> None:
    generator, _ = networks()
    record = nvidia_generator(generator)
    change(record)
    with pytest.raises(CheckpointError) as caught:
        open_weights(dump(tmp_path / "snapshot.pkl", {"G_ema": record})).generator()
    assert words in str(caught.value)
    assert "(G_ema)" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("conv1.activate.bias", None, "misses conv1.activate.bias"),
        ("convs.0.conv.weight", torch.zeros(1, 16, 5, 3, 3), "convs.0.conv.weight has the shape"),
        ("swa.weight", torch.zeros(3), "unknown swa.weight"),
        ("convs.0.conv.blur.kernel", torch.ones(4, 4), "is not the filter"),
        ("convs.1.conv.weight", torch.zeros(1, 9, 16, 3, 3), "16 at 4 px, 9 at 8 px, 8 at 16 px"),
    ],
)
def test_other_rosinality_network_is_refused_by_what_differs(
    name: str, tensor: torch.Tensor | None, words: str, tmp_path: Path
) -> None:
    generator, _ = networks()
    state = rosinality_generator(generator)
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    torch.save({"g_ema": state}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError) as caught:
        open_weights(tmp_path / "weights.pt").generator()
    assert words in str(caught.value)


def test_clamping_and_half_precision_are_noted(tmp_path: Path) -> None:
    generator, _ = networks()
    record = nvidia_generator(generator)
    record.at("synthesis.b16").state["use_fp16"] = True
    record.at("synthesis.b16.conv1").state["conv_clamp"] = 256
    weights = open_weights(dump(tmp_path / "snapshot.pkl", {"G_ema": record})).generator()
    assert weights.notes == {"conv_clamp": 256, "fp16_resolutions": [16]}


def test_file_without_networks_or_without_itself(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        open_weights(tmp_path / "absent.pkl")
    with pytest.raises(CheckpointError, match="without any of G_ema"):
        open_weights(dump(tmp_path / "other.pkl", {"weights": torch.zeros(2)}))
    torch.save({"state_dict": {"a": torch.zeros(2)}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="without any of g_ema"):
        open_weights(tmp_path / "other.pt")
