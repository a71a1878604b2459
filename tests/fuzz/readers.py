"""What is fuzzed: every reader of files and numbers from outside, each with inputs made from a seed.

``python -m tests.fuzz.readers READERS FIRST SECONDS FOLDER``: each of READERS (with commas between) reads
inputs FIRST, FIRST + 1, ... for so long, in a child process of its own, which has nothing left to import. It
writes into FOLDER/READER.json what it is at, so that the input that killed it is known; its exit status is
added at the end. One input again: ``python -m tests.fuzz.readers READER FIRST 0 FOLDER``.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

import gfnet_fast
from gfnet_fast.checkpoints import official, official_checkpoint
from gfnet_fast.checkpoints.pickled import unpickle
from gfnet_fast.config import GFNetConfig
from gfnet_fast.errors import BudgetError, CheckpointError, GFNetError, InputError
from gfnet_fast.exits import Budget, Calibration, ModelIdentity, resolve
from gfnet_fast.exits.files import from_json, to_json
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.sources import read_image
from tests.fuzz.mutations import (
    VALUES,
    mutate_archive,
    mutate_bytes,
    mutate_json,
    mutate_png,
    mutate_safetensors,
)

SECONDS, MEMORY = 4.0, 256 * 2**20
HUNG = 120.0  # seconds more than asked for, after which a reader is killed
Reader = Callable[[Random], int]  # reads one input; how many bytes it had

CONFIG = GFNetConfig(
    "fuzzed",
    "timm/resnet18",
    patch_size=32,
    steps=3,
    image_size=64,
    backbone_args={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
    policy_width=8,
    policy_hidden=4,
    classifier_width=8,
    classes=3,
)


def images(folder: Path) -> Reader:
    picture = Image.radial_gradient("L").resize((70, 61))
    color = Image.merge("RGB", (picture, picture.rotate(90), picture.rotate(180)))
    written: list[bytes] = []

    def save(image: Image.Image, kind: str, **options: Any) -> None:
        out = io.BytesIO()
        image.save(out, kind, **options)
        written.append(out.getvalue())

    exif = Image.Exif()
    exif[274], exif[315] = 6, "somebody"
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        save(color.convert("I").convert(mode) if mode == "I;16" else color.convert(mode), "PNG")
    save(color, "PNG", exif=exif, icc_profile=b"\0" * 200)
    save(color, "JPEG", exif=exif)
    save(color, "JPEG", progressive=True)
    save(color.convert("CMYK"), "JPEG")
    save(color.convert("P"), "GIF", save_all=True, append_images=[picture.convert("P")])
    for mode in ("RGB", "P", "1"):
        save(color.convert(mode), "BMP")
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        save(color, "TIFF", compression=compression)
    save(color.convert("1"), "TIFF", compression="group4")
    save(color, "WEBP")
    save(color, "WEBP", lossless=True)
    save(color, "PPM")
    save(picture, "PPM")
    for kind in ("JPEG2000", "AVIF", "TGA", "PCX", "SGI", "DIB", "ICO"):
        if kind in Image.SAVE:
            save(color, kind)
    path = folder / "image"
    path.write_bytes(written[0])
    read_image(path, CONFIG)  # imports what the first image needs

    def read(rng: Random) -> int:
        data = rng.choice(written)
        change = mutate_png if data.startswith(b"\x89PNG") and rng.random() < 0.6 else mutate_bytes
        data = change(data, rng)
        path.write_bytes(data)
        try:
            image = read_image(path, CONFIG)
        except InputError:
            pass
        else:
            assert image.shape == (64, 64, 3), image.shape
            assert image.dtype == torch.uint8
        return len(data)

    return read


def native(folder: Path) -> Reader:
    model = GFNet(CONFIG)
    model.labels = ("a", "b", "é")
    target = folder / "model"
    model.save_pretrained(target)
    config, weights = target / "config.json", target / "model.safetensors"
    whole = {path: path.read_bytes() for path in (config, weights)}
    pixels = torch.zeros(1, 3, 64, 64)

    def read(rng: Random) -> int:
        for path, content in whole.items():
            path.write_bytes(content)
        if rng.random() < 0.7:
            config.write_text(mutate_json(json.loads(whole[config]), rng), "utf-8", "surrogatepass")
        else:
            weights.write_bytes(mutate_safetensors(whole[weights], rng))
        try:
            loaded = gfnet_fast.load(target)
        except GFNetError:
            pass
        else:
            if loaded.config.image_size == 64:
                loaded.trace(pixels)
        return config.stat().st_size + weights.stat().st_size

    return read


def odd_content(rng: Random, model: dict[str, Any]) -> dict[str, Any]:
    """An official file's table with a few odd values in it."""
    ring: list[Any] = [1]
    ring.append(ring)
    odd = [
        *VALUES[:-4], ring, math.nan, math.inf, 10**400, (1, 2), np.float32(1), np.float64(math.nan), b"ab",
        torch.zeros(2, dtype=torch.float8_e4m3fn), torch.zeros(2, device="meta"), torch.eye(2).to_sparse(),
        torch.zeros(()).expand(4, 10**6), torch.nn.Parameter(torch.ones(2)), torch.tensor([math.nan]),
        torch.zeros(0), torch.zeros(2, dtype=torch.bool), torch.zeros(3, 2).t(), torch.Size([2]), 1 + 2j,
        torch.complex(torch.zeros(2), torch.ones(2)).conj().imag, torch.zeros(2, 3), {"a": torch.zeros(1)},
    ]  # fmt: skip
    content = {key: dict(value) if isinstance(value, dict) else value for key, value in model.items()}
    for _ in range(rng.choice((0, 1, 1, 2))):
        table = content
        if rng.random() < 0.5:
            table = rng.choice([value for value in content.values() if isinstance(value, dict)] or [content])
        table[rng.choice([*table, "x"])] = rng.choice(odd)
    return content


def official_file(folder: Path) -> Reader:
    model = GFNet(CONFIG)
    content = official_checkpoint(model, "training")
    content["dynamic_threshold"] = [[0.5, 0.4, -1e8]]
    small = {"flops": [1.0, 2.0], "acc": np.float32(3), "fc": {"weight": torch.zeros(2, 3)}, "n": None}
    path = folder / "model.pth.tar"

    def read(rng: Random) -> int:
        whole = rng.random() < 0.2
        out = io.BytesIO()
        archive = rng.random() < 0.7
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(
                odd_content(rng, content if whole else small), out, _use_new_zipfile_serialization=archive
            )
        data = out.getvalue()
        if rng.random() < 0.8:
            data = mutate_archive(data, rng) if archive and rng.random() < 0.7 else mutate_bytes(data, rng)
        path.write_bytes(data)
        with suppress(CheckpointError, BudgetError):
            official.read(path, CONFIG) if whole else unpickle(path)
        return len(data)

    return read


def calibration() -> Calibration:
    rng = np.random.default_rng(0)
    confidences = np.sort(rng.random((3, 200)).astype(np.float32), axis=0)
    identity = ModelIdentity("m", 32, 3, (1, 2, 4), weights="0123456789abcdef" * 2)
    rows = np.array([[0.3, 0.4, -1e8], [0.6, 0.7, -1e8]])
    return Calibration.from_confidences(identity, rows, confidences, confidences > 0.5)


def thresholds(folder: Path) -> Reader:
    known = calibration()
    tables = [
        json.loads(to_json(known)),
        {"schema_version": 1, "thresholds": known.thresholds[::64].tolist(), "default_row": 1},
    ]

    def read(rng: Random) -> int:
        text = mutate_json(rng.choice(tables), rng)
        try:
            found = from_json(text, known.model)
            found.check_model(known.model)
            resolve(Budget(macs=2.0), 3, found)
        except BudgetError:
            pass
        return len(text)

    return read


def budgets(folder: Path) -> Reader:
    known = calibration()
    odd = [
        *VALUES,
        math.nan,
        math.inf,
        np.float32(2),
        np.array([0.5, 0.4, -1e8]),
        torch.tensor([0.3, 0.3, 0.4]),
    ]
    odd += [(0.5, 0.4, -1e8), (0.2, 0.3, 0.5), 1.5, 3, [0.5, 0.5, 0.5], {1}, torch.zeros(3, device="meta")]
    names = ("macs", "latency_ms", "thresholds", "shares", "max_steps")

    def read(rng: Random) -> int:
        chosen = rng.sample(names, rng.choice((1, 1, 1, 2)))
        try:
            budget = Budget(**{name: rng.choice(odd) for name in chosen})
            row = resolve(budget, 3, rng.choice((known, known, None)), device="cpu")
        except BudgetError:
            pass
        else:
            assert row.shape == (3,), row
            assert row[-1] == -1e8
            assert np.isfinite(row).all()
        return 0

    return read


READERS: dict[str, Callable[[Path], Reader]] = {
    "images": images,
    "native": native,
    "official": official_file,
    "thresholds": thresholds,
    "budgets": budgets,
}


def resident(peak: bool) -> int:
    """Bytes of this process in memory: now, or at most since :func:`forget_peak`."""
    name = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def fuzz(name: str, first: int, seconds: float, record: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    facts: dict[str, Any] = {"inputs": 0, "slowest": 0.0, "slowest_input": None, "memory": 0, "faults": []}
    with tempfile.TemporaryDirectory() as folder:
        read = READERS[name](Path(folder))
        for number in (first, first):  # what is imported and cached at the first reads is no input's memory
            read(Random(f"{name} {number}"))
        end = time.monotonic() + seconds
        for number in itertools.count(first):
            record.write_text(json.dumps({**facts, "at": number}))
            forget_peak()
            before, began = resident(peak=False), time.process_time()
            size = 0
            try:
                size = read(Random(f"{name} {number}"))
            except BaseException:
                facts["faults"].append([number, traceback.format_exc(limit=-4)])
            took, memory = time.process_time() - began, resident(peak=True) - before
            if took > facts["slowest"]:
                facts.update(slowest=took, slowest_input=number)
            facts["memory"] = max(facts["memory"], memory)
            if took > SECONDS or memory > 2 * size + MEMORY:
                facts["faults"].append([number, f"{took:.1f} s, {memory / 2**20:.0f} MiB for {size} bytes"])
            facts["inputs"] += 1
            if time.monotonic() >= end or len(facts["faults"]) >= 20:
                break
    record.write_text(json.dumps(facts))


def main(names: str, first: int, seconds: float, folder: Path) -> None:
    for name in names.split(","):
        record = folder / f"{name}.json"
        context = multiprocessing.get_context("fork")
        child = context.Process(target=fuzz, args=(name, first, seconds, record))
        child.start()
        child.join(seconds + HUNG)
        child.kill()
        child.join()
        facts = json.loads(record.read_text()) if record.exists() else {"at": first}
        record.write_text(json.dumps({**facts, "status": child.exitcode}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
