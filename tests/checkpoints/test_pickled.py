"""The reader of torch.save's files: it runs nothing, in memory that the file bounds."""

import collections
import io
import pickle
import pickletools
import struct
import time
import zipfile

import numpy as np
import pytest
import torch

from gfnet_fast.checkpoints.machine import MAX_OPERATIONS, Unusable
from gfnet_fast.checkpoints.pickled import unpickle
from gfnet_fast.errors import CheckpointError

FORMS = pytest.mark.parametrize("archive", [True, False], ids=["archive", "stream"])


def saved(path, content, archive=True):
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    return path


def repacked(path, change, packed=zipfile.ZIP_STORED):
    """The archive at `path` with each record's bytes changed by ``change(name, body)``."""
    with zipfile.ZipFile(path) as source:
        records = [(info.filename, source.read(info)) for info in source.infolist()]
    with zipfile.ZipFile(path, "w", packed) as target:
        for name, body in records:
            target.writestr(name, change(name, body))
    return path


def with_pickle(path, body):
    return repacked(
        saved(path, {"a": torch.ones(2)}), lambda name, old: body if name.endswith("/data.pkl") else old
    )


@FORMS
def test_plain_values_and_tensors_of_every_type_come_back(tmp_path, archive):
    base = torch.arange(24.0).view(4, 6)
    kinds = (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
    )
    content = {
        "views": (base, base[1:3, ::2], base.t()),
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(2.5),
        "kinds": [torch.arange(5).to(kind) for kind in (*kinds, torch.int8, torch.uint8, torch.bool)],
        "complex": torch.complex(torch.ones(2), torch.zeros(2)),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "last": torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "plain": [1, -1, 2**70, 1.5, True, None, "é", b"\0\xff", (1, (2,)), {1: {"a": []}}],
        "ordered": torch.nn.Linear(2, 2).state_dict(),
        "numpy": [np.float32(1.5), np.float64(2.5), np.int64(3), np.int32(4)],
        "size": torch.Size([1, 2]),
    }
    found = unpickle(saved(tmp_path / "a.pth", content, archive))
    assert list(found) == list(content)
    assert found["plain"] == content["plain"]
    assert found["numpy"] == content["numpy"]
    assert found["size"] == (1, 2)
    assert list(found["ordered"]) == ["weight", "bias"]
    for name in ("views", "kinds"):
        for got, wanted in zip(found[name], content[name], strict=True):
            assert got.dtype == wanted.dtype
            assert got.stride() == wanted.stride()
            assert torch.equal(got, wanted)
    for name in ("empty", "number", "complex", "last"):
        assert torch.equal(found[name], content[name])
    assert torch.equal(found["parameter"], torch.ones(3))
    assert not found["parameter"].requires_grad
    found["views"][0][1, 2] = -1  # one memory behind the three, and the file's no more
    assert found["views"][1][0, 1] == -1
    assert unpickle(tmp_path / "a.pth")["views"][1][0, 1] == 8


@FORMS
def test_what_no_model_needs_is_kept_apart(tmp_path, archive):
    content = {"sparse": torch.eye(2).to_sparse(), "float8": torch.zeros(2).to(torch.float8_e4m3fn)}
    if archive:
        content["meta"] = torch.zeros(2, device="meta")
    found = unpickle(saved(tmp_path / "a.pth", content, archive))
    assert found["sparse"] == Unusable("torch.sparse_coo")
    assert all(isinstance(value, Unusable) for value in found.values())


@FORMS
def test_strides_of_nothing_are_no_numbers(tmp_path, archive):
    path = saved(tmp_path / "a.pth", {"a": torch.zeros(()).expand(10**6, 10**6)}, archive)
    with pytest.raises(
        CheckpointError, match=r"expected a tensor of at most its 1 numbers, got one of 10{12}\b"
    ):
        unpickle(path)


def test_a_tensor_stays_within_its_storage(tmp_path):
    torch.save({"a": torch.ones(4)}, tmp_path / "a.pth")
    body = zipfile.ZipFile(tmp_path / "a.pth").read("a/data.pkl")
    # The offset 0, then the shape (4,): an offset of 1 ends one number behind the storage.
    assert body.count(b"K\x00K\x04\x85") == 1
    path = with_pickle(tmp_path / "b.pth", body.replace(b"K\x00K\x04\x85", b"K\x01K\x04\x85"))
    repacked(path, lambda name, old: struct.pack("<4f", 1, 1, 1, 1) if name.endswith("data/0") else old)
    with pytest.raises(
        CheckpointError, match="expected a tensor within its 4 numbers, got one that ends at 4"
    ):
        unpickle(path)
    path = with_pickle(tmp_path / "c.pth", body)  # its storage is there for two numbers only
    with pytest.raises(CheckpointError, match="expected 16 bytes, got 8"):
        unpickle(path)


class Runs:
    def __reduce__(self):
        return (print, ("run",))


class Made:
    pass


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (Runs(), "the function 'builtins.print'|the function '__builtin__.print'"),
        (Made(), "NEWOBJ|test_pickled"),
        (bytearray(3), "bytearray"),
        (collections.Counter("a"), "Counter"),
        ({1, 2}, "set"),
        (np.zeros(3), "_reconstruct"),
        (torch.nn.Linear(1, 1), "NEWOBJ|Linear"),
    ],
    ids=lambda value: type(value).__name__,
)
@FORMS
def test_functions_and_classes_are_refused_by_name(tmp_path, archive, value, what, capsys):
    path = saved(tmp_path / "a.pth", {"a": value}, archive)
    with pytest.raises(CheckpointError, match=f"without running code.*({what})"):
        unpickle(path)
    assert capsys.readouterr().out == ""


def bomb_of_memory(out):
    """A place in the memo that an array of a gigabyte would have."""
    out.write(b"\x80\x02}r\xff\xff\xff\x3f.")


def bomb_of_hashes(out):
    """A name that is a tuple of itself, forty times over: its hash takes 2 ** 40 steps."""
    out.write(b"\x80\x02}(K\x01" + b"".join(b"q%c\x85h%ch%c\x86" % (i, i, i) for i in range(40)) + b"K\x01u.")


def bomb_of_instructions(out):
    out.write(b"\x80\x02]" + b"(NNNNNNNe" * (MAX_OPERATIONS // 9 + 2) + b".")


def bomb_of_bytes(out):
    """Bytes that claim to be 2 ** 40."""
    out.write(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.")


@pytest.mark.parametrize(
    "write", [bomb_of_memory, bomb_of_hashes, bomb_of_instructions, bomb_of_bytes], ids=lambda f: f.__name__
)
def test_bombs_go_off_at_once(tmp_path, write):
    out = io.BytesIO()
    write(out)
    path = with_pickle(tmp_path / "a.pth", out.getvalue())
    began = time.process_time()
    if write is bomb_of_memory:  # a high place in the memo costs nothing here
        assert unpickle(path) == {}
    else:
        with pytest.raises(CheckpointError, match=r"expected a file that torch\.save wrote"):
            unpickle(path)
    assert time.process_time() - began < 4


MANY, TIMES = 200_000, 100_000
STORAGE = b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"


def nested(wide, deep):
    """Tuples of the memo's first value, each of `wide` of the one before; the last is the stack's top."""
    return b"".join(b"(" + b"h%c" % i * wide + b"tq%c" % (i + 1) for i in range(deep))


# What is shared costs an instruction to name again, and much more to copy, to print or to hash.
SHARED = {
    "copies of a list": b"(" + b"N" * MANY + b"lq\0ctorch\nSize\nq\1h\0\x85q\2(" + b"h\1h\2R" * TIMES + b"l",
    "tables of pairs": b"(" + b"NN\x86" * MANY + b"lq\0ccollections\nOrderedDict\nq\1h\0\x85q\2("
    + b"h\1h\2R" * TIMES + b"l",
    "encoded texts": b"X" + struct.pack("<I", 4_000_000) + b"a" * 4_000_000
    + b"q\0c_codecs\nencode\nq\1h\0X\6\0\0\0latin1\x86q\2(" + b"h\1h\2R" * TIMES + b"l",
    "names": b"X" + struct.pack("<I", 3_000_000) + b"a" * 3_000_000 + b"q\0(" + b"h\0h\0\x93" * TIMES + b"l",
    "dimensions": b"\x8a\6\xff\xff\xff\xff\xff\x7fq\0(" + b"h\0" * MANY
    + b"lq\1ctorch._utils\n_rebuild_tensor_v2\n((" + STORAGE + b"K\1tQK\0h\1h\1tR",
    "whole numbers as names": b"\x8b" + struct.pack("<I", 3_000_000) + b"\x7f" * 3_000_000 + b"q\0}("
    + b"h\0N" * MANY + b"u",
    "references": b"(" + STORAGE + b"K\1" + b"N" * MANY + b"tq\0(" + b"h\0Q" * TIMES + b"l",
    "printed references": b"X\xc8\0\0\0" + b"x" * 200 + b"q\0" + nested(6, 7) + b"Q",
    "a printed layout": b"K\1q\0" + nested(2, 60) + b"\x85q\x63ctorch._utils\n_rebuild_sparse_tensor\nh\x63R",
}  # fmt: skip


@pytest.mark.parametrize("body", SHARED.values(), ids=SHARED)
def test_values_that_are_shared_are_not_copied_printed_or_hashed_without_end(tmp_path, body):
    path = with_pickle(tmp_path / "a.pth", b"\x80\2(" + body + b"l.")
    began = time.process_time()
    try:
        assert unpickle(path)[-1] == Unusable("a sparse one")
        assert b"sparse" in body
    except CheckpointError as error:
        assert len(str(error)) < 800  # noqa: PT017
    assert time.process_time() - began < 4


def test_the_stream_s_storages_are_named_by_texts(tmp_path):
    begin = b"".join(
        pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {})
    )
    (tmp_path / "a.pth").write_bytes(begin + b"\x80\2(K\1q\0" + nested(2, 60) + b"l.")
    with pytest.raises(CheckpointError, match="expected a list of all its storages, got another"):
        unpickle(tmp_path / "a.pth")


def test_a_list_that_holds_itself_is_read(tmp_path):
    ring = [1]
    ring.append(ring)
    found = unpickle(saved(tmp_path / "a.pth", {"a": ring}))["a"]
    assert found[1] is found


def test_records_that_are_packed_or_overlap_are_refused(tmp_path):
    path = saved(tmp_path / "a.pth", {"a": torch.zeros(1000)})
    repacked(path, lambda name, body: body, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="packed records"):
        unpickle(path)
    saved(path, {"a": torch.zeros(10_000)})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    name, extra, comment = struct.unpack("<3H", content[at + 28 : at + 34])
    entry = content[at : at + 46 + name + extra + comment]
    entry[24:28] = entry[20:24] = struct.pack("<I", 2**31)  # the last record claims two gigabytes
    content[at : at + len(entry)] = entry
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="records overlap"):
        unpickle(path)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "model.pth.tar"
    for content, what in {
        b"": "an empty file",
        b"<!DOCTYPE html>\n<html><body>Sign in</body></html>": "a web page",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n": "a Git LFS pointer",
        b"hello, world\n" * 9: "a text that begins with 'hello, world",
        b"\x1f\x8b\x08\0": "a gzip file",
        (20).to_bytes(8, "little") + b'{"a": {}}': "a safetensors file",
        b"\x89PNG\r\n\x1a\n": "a PNG image",
        pickle.dumps({"a": 1}): "a pickle of another kind",
        b"\x80\x02" + bytes(1000): "a damaged one",
    }.items():
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=f"expected a file that torch.save wrote, got {what}"
        ) as raised:
            unpickle(path)
        assert "weights_only" not in str(raised.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "c")
    with pytest.raises(CheckpointError, match=r"an archive with 0 records NAME/data\.pkl"):
        unpickle(path)


def test_every_instruction_that_torch_writes_is_known(tmp_path):
    """And those that protocol 4 adds for such values: what is read does not hang on the protocol."""
    torch.save({"a": [1, "b", (1, 2)], "c": None}, tmp_path / "a.pth", pickle_protocol=4)
    assert unpickle(tmp_path / "a.pth") == {"a": [1, "b", (1, 2)], "c": None}
    body = zipfile.ZipFile(tmp_path / "a.pth").read("a/data.pkl")
    assert "MEMOIZE" in {opcode.name for opcode, _, _ in pickletools.genops(body)}
