"""Folders of images by class: their parts, what is refused, and batches that do not depend on the reader."""

from __future__ import annotations

import os
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gfnet_fast.data.folder import (
    FolderImages,
    TrainingReader,
    evaluation_reader,
    load_batches,
    read_parts,
    seeded,
)
from gfnet_fast.errors import InputError
from gfnet_fast.sources import read_image
from tests.conftest import random_images, tiny_config

CONFIG = tiny_config()


def write(folder, classes, count=6, seed=0):
    """`count` pictures of 90 x 70 for each class."""
    pixels = iter(random_images(len(classes) * count, 90, seed).numpy()[:, :70])
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(next(pixels)).save(folder / name / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain"), ["wren", "Owl", "crow"], count=10)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    root = tmp_path_factory.mktemp("named")
    for seed, (part, count) in enumerate({"train": 8, "val": 3}.items()):
        write(root / part, ["b", "a"], count, seed)
    return root


def paths(part):
    return [part.path(row) for row in range(len(part))]


def test_a_plain_folder_is_divided_by_class(plain):
    parts = read_parts(plain, heldout=0.2, validation=0.1)
    assert parts.classes == ("Owl", "crow", "wren")
    counts = [np.bincount(part.labels).tolist() for part in parts[1:]]
    assert counts == [[7] * 3, [2] * 3, [1] * 3]
    every = [path for part in parts[1:] for path in paths(part)]
    assert sorted(every) == sorted(plain.rglob("*.png"))
    for part in parts[1:]:
        assert [path.parent.name for path in paths(part)] == [parts.classes[label] for label in part.labels]


def test_the_split_follows_its_seed(plain):
    first, again, other = (read_parts(plain, 0.2, 0.2, seed=seed) for seed in (1, 1, 2))
    assert [part.digest for part in first[1:]] == [part.digest for part in again[1:]]
    assert first.heldout.digest != other.heldout.digest


def touch(folder, names):
    """Empty files: parts are divided by names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "runs"),
    [
        # photo2 before photo10, and what is missing shifts nothing: 1-3, 4-6, 7-9, 10-12.
        ("photo1 photo2 photo3 photo4 photo6 photo8 photo9 photo10",
         {"photo1 photo2 photo3", "photo4 photo6", "photo8 photo9", "photo10"}),
        # By the last number, whatever follows it; apart from what begins otherwise or is in another folder.
        ("x/p7_01 x/p7_02b y/p7_03 p8_02 p8_03", {"x/p7_01 x/p7_02b", "y/p7_03", "p8_02 p8_03"}),
        # By position where there is no number.
        ("d b c a e f g", {"a b c", "d e f", "g"}),
    ],
    ids=["numbers", "names", "positions"],
)  # fmt: skip
def test_neighbours_stay_together(tmp_path, names, runs):
    """Every run of a class is held out by some seed, and nothing but whole runs ever is."""
    for name in "ab":
        touch(tmp_path / name, [f"{name}.png" for name in names.split()])
    heldout = [read_parts(tmp_path, seed=seed, run=3).heldout for seed in range(30)]
    found = [
        [name.decode().removesuffix(".png") for name in part.names if name[:1] == b"a"] for part in heldout
    ]
    assert {frozenset(name.removeprefix("a/") for name in names) for names in found} == {
        frozenset(run.split()) for run in runs
    }


def test_shares_are_of_runs(tmp_path):
    for name in "ab":
        touch(tmp_path / name, [f"{n:03}.png" for n in range(1, 73)])
    parts = read_parts(tmp_path, heldout=0.2, validation=0.01, run=12)  # six runs: 1.2 and 0.06 of them
    assert [np.bincount(part.labels).tolist() for part in parts[1:]] == [[48, 48], [12, 12], [12, 12]]
    for part in (parts.heldout, parts.validation):
        for label in (0, 1):
            numbers = [int(path.stem) for path in paths(part) if path.parent.name == "ab"[label]]
            assert numbers == list(range(numbers[0], numbers[0] + 12))
            assert numbers[0] % 12 == 1
    with pytest.raises(InputError, match=r"a: expected more than 2 runs of 36 images, .*, got 2"):
        read_parts(tmp_path, run=36)


def test_alone_images_of_one_number_are_single(tmp_path):
    for name in "ab":
        touch(tmp_path / name, [f"224px_{k}.png" for k in "stuvwxyz"])
    assert [len(part) for part in read_parts(tmp_path)[1:]] == [12, 2, 2]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_grey_and_transparent_images_are_trained_on(tmp_path, mode):
    """Grey in three channels, and alpha dropped: as the predictor sees them."""
    pixels = random_images(1, 90).numpy()[0]
    alpha = Image.fromarray(pixels[..., 0])
    image = Image.fromarray(pixels)
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(alpha)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "one.png", **({"transparency": 3} if mode == "P" else {}))
    color = Image.fromarray(pixels).convert(mode.removesuffix("A")).convert("RGB")
    color.save(tmp_path / "color.png")
    for reader in (TrainingReader(CONFIG, scale=(1.0, 1.0), flip=0.0), evaluation_reader(CONFIG)):
        with seeded(0):
            seen = reader(tmp_path / "one.png")
        with seeded(0):
            assert torch.equal(seen, reader(tmp_path / "color.png"))
        assert seen.shape == (80, 80, 3)


def test_named_parts_are_kept(named):
    parts = read_parts(named, heldout=0.25)
    assert parts.classes == ("a", "b")
    assert [len(part) for part in parts[1:]] == [12, 4, 6]
    assert {path.parts[-3] for path in [*paths(parts.train), *paths(parts.heldout)]} == {"train"}
    assert {path.parts[-3] for path in paths(parts.validation)} == {"val"}


def test_a_heldout_folder_takes_nothing_from_training(named, tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).symlink_to(named / part)
    write(tmp_path / "heldout", ["a", "b"], count=2, seed=9)
    parts = read_parts(tmp_path)
    assert [len(part) for part in parts[1:]] == [16, 4, 6]


@pytest.mark.parametrize("part", ["train", "val", "heldout"])
def test_parts_that_are_not_there_are_drawn(named, tmp_path, part):
    """``train`` alone, or with one of the others."""
    (tmp_path / "train").symlink_to(named / "train")
    if part != "train":
        (tmp_path / part).symlink_to(named / "val")
    parts = read_parts(tmp_path, heldout=0.25, validation=0.125)
    assert parts.classes == ("a", "b")
    expected = {"train": [10, 4, 2], "val": [12, 4, 6], "heldout": [14, 6, 2]}
    assert [len(part) for part in parts[1:]] == expected[part]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no.folder: expected a folder of images by class, got none"),
        (lambda root: root.mkdir(), "expected two or more folders, one a class, got \\[\\]"),
        (lambda root: write(root, ["one"]), "expected two or more folders.*\\['one'\\]"),
        (lambda root: write(root, ["a", "b"]) and (root / "empty").mkdir(), "empty: expected images.*empty"),
        (lambda root: write(root, ["a", "b"], count=2), "a: expected more than 2 images.*got 2"),
        (
            lambda root: (write(root / "train", ["a", "b"]), write(root / "val", ["a", "c"])),
            "val: expected the classes of .*train, got a difference in \\['b', 'c'\\]",
        ),
        (
            lambda root: (write(root / "train", ["a", "b"]), write(root / "test", ["a", "b"])),
            "no-folder: expected train, val and heldout only beside each other, got \\['test'\\] too",
        ),
        (
            lambda root: write(root, ["plane", "ship", "train"]),
            "only beside each other, got \\['plane', 'ship'\\] too",
        ),
    ],
    ids=["missing", "no-class", "one-class", "empty-class", "too-small", "other-classes", "test", "classes"],
)
def test_folders_that_are_refused(tmp_path, make, message):
    root = tmp_path / "no-folder"
    make(root)
    with pytest.raises(InputError, match=message):
        read_parts(root)


def test_evaluation_reads_what_the_predictor_reads(plain):
    part = read_parts(plain).train
    order = [[(0, 0), (5, 0)], [(3, 0)]]
    batches = list(load_batches(FolderImages(part, evaluation_reader(CONFIG)), order))
    assert [len(batch.labels) for batch in batches] == [2, 1]
    for batch, items in zip(batches, order, strict=True):
        for image, label, (row, _) in zip(batch.images, batch.labels, items, strict=True):
            assert torch.equal(image, read_image(part.path(row), CONFIG))
            assert label == part.labels[row]


def every_augmentation():
    return TrainingReader(CONFIG, (0.3, 1.0), 0.5, 0.4, "rand-m9-mstd0.5", 0.5)


def test_an_item_is_read_the_same_in_any_company(plain):
    """By its seed alone: in another batch, in another order, in a worker; and other generators go on."""
    part = read_parts(plain).train
    images = FolderImages(part, every_augmentation(), replace=True)
    items = [(row, 1000 + row) for row in range(6)]
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    together = next(load_batches(images, [items])).images
    one, two = (images[item][0][0] for item in (items[4], items[1]))
    assert torch.equal(one, together[4])
    assert torch.equal(two, together[1])
    assert random.random() == expected[1]
    elsewhere = torch.cat([b.images for b in load_batches(images, [items[:4], items[4:]], workers=2)])
    assert torch.equal(elsewhere, together)
    assert together.dtype == torch.uint8
    assert together.shape == (6, 80, 80, 3)
    assert not torch.equal(images[(0, 7)][0][0], together[0])
    before = torch.get_rng_state()
    _ = images[(0, 7)]
    assert torch.equal(torch.get_rng_state(), before)


def test_without_augmentation_a_crop_is_part_of_the_image(plain):
    part = read_parts(plain).train
    reader = TrainingReader(CONFIG, scale=(1.0, 1.0), flip=0.0)
    seen = reader(part.path(0)).float()
    whole = np.asarray(Image.open(part.path(0)).resize((80, 80), Image.Resampling.BILINEAR))
    assert (seen - torch.from_numpy(whole.astype(np.float32))).abs().mean() < 6
    flips = {1: {"flip": 1.0}, 0: {"flip": 0.0, "vertical_flip": 1.0}}
    for axis, settings in flips.items():
        flipped = TrainingReader(CONFIG, scale=(1.0, 1.0), **settings)
        torch.manual_seed(0)
        random.seed(0)
        one = reader(part.path(0))
        torch.manual_seed(0)
        random.seed(0)
        assert torch.equal(flipped(part.path(0)), one.flip(axis))


@pytest.mark.parametrize("change", [{"flip": 0.5}, {"scale": (0.2, 1.0)}], ids=["flip", "crop"])
def test_flips_and_crops_follow_the_seed(plain, change):
    settings = {"scale": (1.0, 1.0), "flip": 0.0, **change}
    images = FolderImages(read_parts(plain).train, TrainingReader(CONFIG, **settings))
    kinds = {images[(0, seed)][0][0].numpy().tobytes() for seed in range(12)}
    assert len(kinds) == 2 if "flip" in change else len(kinds) > 8


def test_all_generators_begin_at_the_seed_and_go_on_afterwards():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    drawn = []
    for seed in (1, 2, 1):
        with seeded(seed):
            drawn.append(draw())
    assert drawn[0] == drawn[2]
    assert not set(drawn[0]) & set(drawn[1])
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_unreadable_images(plain, tmp_path):
    """The next one stands in where batches keep their size; otherwise they are left out. Both name them."""
    for name in ("train", "val", "heldout"):
        write(tmp_path / name, ["a", "b"], count=5)
    first, last = tmp_path / "train" / "a" / "02.png", tmp_path / "train" / "b" / "04.png"
    first.write_bytes(b"no picture")
    last.write_bytes(last.read_bytes()[:200])
    part = read_parts(tmp_path).train
    bad = [paths(part).index(first), paths(part).index(last)]
    reader = evaluation_reader(CONFIG)
    order = [[(row, 0) for row in range(len(part))]]
    kept = next(load_batches(FolderImages(part, reader, replace=True), order))
    assert len(kept.labels) == len(part)
    assert list(kept.bad) == [str(first), str(last)]
    for row in bad:
        after = (row + 1) % len(part)
        assert torch.equal(kept.images[row], kept.images[after])
        assert kept.labels[row] == part.labels[after]
        assert str(part.path(row)) in kept.bad[str(part.path(row))]
    left = next(load_batches(FolderImages(part, reader), order))
    assert len(left.labels) == len(left.images) == len(part) - len(bad)
    assert left.bad == kept.bad


def test_sixteen_bits_are_refused(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.zeros((90, 90), np.uint16)).save(path)
    with pytest.raises(InputError, match=r"deep.png: expected 8 bits a channel .*, got mode I"):
        TrainingReader(CONFIG)(path)


def test_hidden_files_are_in_no_part_and_linked_ones_are(plain, tmp_path):
    """What editors and systems leave behind would be trained on and reported on too."""
    root = tmp_path / "data"
    shutil.copytree(plain, root)
    for name in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(root / "crow", root / "crow" / name)
        shutil.copytree(root / "crow", root / name)
    (root / "crow" / "._00.png").write_bytes(b"no picture")
    (tmp_path / "more").mkdir()
    shutil.copy(root / "crow" / "00.png", tmp_path / "more" / "linked.png")
    (root / "crow" / "z").symlink_to("../../more")
    (root / "crow" / "loop").symlink_to("..")
    parts = read_parts(root)
    assert parts.classes == ("Owl", "crow", "wren")
    names = sorted(path.relative_to(root).as_posix() for part in parts[1:] for path in paths(part))
    own = [f"{name}/{k:02}.png" for name in parts.classes for k in range(10)]
    assert names == sorted([*own, "crow/z/linked.png"])


def test_a_class_that_cannot_be_read_is_an_error(plain, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if os.path.basename(path) == "crow":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"crow: expected a folder that can be read, got .*denied"):
        read_parts(plain)


def test_an_unknown_augmentation():
    with pytest.raises(InputError, match="augmentation: expected what timm knows"):
        TrainingReader(CONFIG, auto_augment="no-such-policy")
