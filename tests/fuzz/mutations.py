"""Mutations: of bytes, of JSON, of PNG chunks, of the records of an archive. All from one generator."""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
import zlib
from random import Random
from typing import Any

NUMBERS = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**48,
    2**63,
    2**64 - 1,
]

# "@HUGE" and its like become what json.dumps would not write.
RAW = {'"@HUGE"': "1" + "0" * 400, '"@NAN"': "NaN", '"@INF"': "1e999", '"@DEEP"': "[" * 5000 + "]" * 5000}
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 2.5, -0.0, 1e-300, 1e300, 2**31, 2**40, 2**63, 10**12),
    *("", "a", "é", "\ud800", "\x00", "\x1b[2J", "../x", "timm/resnet18", "http://127.0.0.1/x", "x" * 5000),
    *([], {}, [[]], [None], {"": 0}, [1, [2, [3]]], ["1"], [0.5] * 300, [[0.5, 0.4]] * 50),
    *(json.loads(word) for word in RAW),
]


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """A few changes of bits, bytes, numbers and pieces."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        size = rng.choice((1, 1, 2, 4, 8, rng.randrange(1, 200)))
        how = rng.randrange(8)
        if how == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            out[at : at + size] = rng.randbytes(size)
        elif how == 2:
            del out[at : at + size]
        elif how == 3:
            out[at:at] = rng.randbytes(size)
        elif how == 4:
            start = rng.randrange(len(out) + 1)
            out[at:at] = out[start : start + size]
        elif how == 5:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) & (2 ** (8 * width) - 1)
            out[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif how == 6 and rng.random() < 0.3:
            del out[at:]
        elif at < len(out):
            out[at] = rng.choice((0, 0xFF, 0x7F, 0x20, 0x0A))
    return bytes(out)


def mutate_json(value: Any, rng: Random) -> str:
    """A JSON text in which a few values are others; sometimes its text is mutated as well."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        holder, key = _place(value, rng)
        if holder is None:
            continue
        how = rng.randrange(10)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[rng.choice(("x", "", "pretrained", "weights", "url", "\x1b", "steps"))] = rng.choice(
                VALUES
            )
        elif how == 2 and isinstance(holder, list):
            holder.append(copy.deepcopy(rng.choice(holder)) if holder else 0)
        elif how == 3 and isinstance(holder[key], (int, float)):
            holder[key] = holder[key] * rng.choice((-1, 0, 2, 1e9, 1e-9)) + rng.choice((0, 1, -1))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    text = json.dumps(value)
    for word, raw in RAW.items():
        text = text.replace(word, raw)
    if rng.random() < 0.1:
        text = mutate_bytes(text.encode(), rng).decode("utf-8", "replace")
    return text


def _place(value: Any, rng: Random) -> tuple[Any, Any]:
    """A container in `value` and a key of it."""
    holder, key = None, None
    for _ in range(8):
        if not isinstance(value, (dict, list)) or not value:
            break
        holder = value
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        value = holder[key]
        if rng.random() < 0.3:
            break
    return holder, key


def mutate_png(data: bytes, rng: Random) -> bytes:
    """A PNG in which chunks are changed, moved or repeated, with the sums that belong to them."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks.append([kind, data[at + 8 : at + 8 + size]])
        at += 12 + size
    chosen = rng.randrange(len(chunks))
    how = rng.randrange(6)
    if how == 0:
        chunks.insert(rng.randrange(len(chunks)), chunks[chosen])
    elif how == 1:
        del chunks[chosen]
    elif how == 2:
        kind = rng.choice((b"tRNS", b"PLTE", b"iCCP", b"zTXt", b"eXIf", b"acTL", b"gAMA", b"sBIT"))
        body = rng.choice((b"", rng.randbytes(rng.randrange(40)), b"a\0\0" + zlib.compress(bytes(200_000))))
        chunks.insert(rng.randrange(1, len(chunks) + 1), [kind, body])
    elif chunks[chosen][0] == b"IDAT" and how == 3:
        try:
            raw = zlib.decompress(chunks[chosen][1])
        except zlib.error:
            raw = b""
        chunks[chosen][1] = zlib.compress(mutate_bytes(raw or b"0", rng))
    else:
        chunks[chosen][1] = mutate_bytes(chunks[chosen][1], rng)
    out = bytearray(data[:8])
    for kind, body in chunks:
        out += struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))
    return bytes(out)


def mutate_archive(data: bytes, rng: Random) -> bytes:
    """An archive in which a record is changed, with the sum that belongs to it; sometimes one is packed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        records = source.infolist()
        pickles = [info for info in records if info.filename.endswith("data.pkl")]
        chosen = rng.choice(pickles if pickles and rng.random() < 0.7 else records)
        for info in records:
            body = source.read(info)
            if info is chosen:
                body = mutate_bytes(body, rng) if rng.random() < 0.95 else body + bytes(1 << 24)
            packed = zipfile.ZIP_DEFLATED if rng.random() < 0.01 else zipfile.ZIP_STORED
            target.writestr(info.filename, body, packed)
    return out.getvalue()


def mutate_safetensors(data: bytes, rng: Random) -> bytes:
    """A safetensors file in which names, types, shapes and offsets are others, or its bytes."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3:
        return mutate_bytes(data[: 8 + size], rng) + data[8 + size :]
    head = mutate_json(json.loads(data[8 : 8 + size]), rng).encode("utf-8", "surrogatepass")
    claimed = len(head) if rng.random() < 0.9 else rng.choice(NUMBERS)
    return claimed.to_bytes(8, "little") + head + data[8 + size :]
