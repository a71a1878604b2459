"""The demo's numbers and its picture."""

import sys
from io import StringIO

import pytest
import torch
from PIL import Image
from rich.console import Console

from gfnet_fast.cli import main
from gfnet_fast.data.digits import ClutteredDigits, DigitsTask
from gfnet_fast.demo import run_demo
from gfnet_fast.errors import InputError
from gfnet_fast.figure import STEPS, WIDTH, Layout, draw_exits
from gfnet_fast.intervals import wilson
from gfnet_fast.results import Prediction
from tests.conftest import expected_exits, random_images, tiny_model

TASK = DigitsTask(canvas=80, sizes=(14.0, 40.0), fragments=3)


@pytest.fixture(scope="module")
def model():
    model = tiny_model(classes=10)
    model.thresholds = torch.tensor([[0.45, 0.4, 0.35, -1e8]])
    return model


def test_the_numbers_are_those_of_the_trace(model, tmp_path):
    text = Console(file=StringIO(), width=120)
    facts = run_demo(tmp_path / "demo.png", count=40, seed=3, model=model, task=TASK, console=text)
    data = ClutteredDigits("test", 40, 3, TASK)
    images = data.images(range(40)).contiguous()
    label, step, _ = expected_exits(model, images, model.thresholds[0])
    early, first, whole, full = facts["rows"]
    assert early["right"] == int((label == data.labels).sum())
    assert early["mean_steps"] == pytest.approx(step.double().mean().item())
    costs = torch.tensor(model.config.macs, dtype=torch.float64)[step - 1]
    assert early["mean_macs"] == pytest.approx(costs.mean().item())
    glance, *_, last = model.trace(model.normalise(images)).logits.argmax(-1)
    assert first["right"] == int((glance == data.labels).sum())
    assert (first["mean_steps"], first["mean_macs"]) == (1, model.config.macs[0])
    assert whole["right"] == int((last == data.labels).sum())
    assert whole["mean_steps"] == 4
    assert whole["mean_macs"] == model.config.macs[-1]
    assert full["mean_macs"] > 0
    assert [e["images"] for e in facts["exits"]] == [int((step == k).sum()) for k in range(1, 5)]
    assert all(row["images_per_second"] > 0 for row in facts["rows"])
    assert "early exit" in text.file.getvalue()
    assert Image.open(tmp_path / "demo.png").width <= WIDTH


def prediction(steps, origins):
    count = len(steps)
    return Prediction(
        class_id=torch.arange(count) % 3,
        confidence=torch.linspace(0.3, 0.9, count),
        exit_step=torch.tensor(steps),
        logits=torch.zeros(count, 3),
        origins=origins,
    )


def test_boxes_are_drawn_where_the_crops_were():
    size, patch, thresholds = 80, 32, torch.tensor([0.9, 0.6, -1e8])
    images = random_images(4, size)
    origins = torch.full((4, 2, 2), -1)
    origins[1, 0] = torch.tensor([40, 8])
    origins[2] = torch.tensor([[0, 0], [48, 48]])
    picture = draw_exits(
        images, prediction([1, 2, 3, 1], origins), thresholds, torch.zeros(4), patch_size=patch
    )
    layout = Layout.of((size, size), 5, [2, 1, 1])
    assert picture.size == layout.size

    def colour_at(row, column, box_origin, step):
        x, y = layout.corner(row, column)
        left, _, right, bottom = layout.box(box_origin, patch)
        pixels = [picture.getpixel((x + left, y + bottom)), picture.getpixel((x + right, y + bottom))]
        wanted = tuple(int(STEPS[step][k : k + 2], 16) for k in (1, 3, 5))
        return wanted in pixels

    assert colour_at(1, 0, (40, 8), 1)
    assert colour_at(2, 0, (0, 0), 1)
    assert colour_at(2, 0, (48, 48), 2)
    assert not colour_at(0, 0, (40, 8), 1)


def test_a_step_at_which_nobody_left_says_so():
    images = random_images(2, 80)
    out = prediction([1, 3], torch.zeros(2, 2, 2, dtype=torch.long))
    empty = draw_exits(images, out, torch.tensor([0.9, 0.6, -1e8]), torch.zeros(2), patch_size=32)
    assert empty.size == Layout.of((80, 80), 5, [1, 0, 1]).size


def test_names_of_any_kind_are_drawn():
    """As escapes, where they do not print: the picture is that of the escapes themselves."""
    out = prediction([1, 2], torch.zeros(2, 1, 2, dtype=torch.long))
    images, limits = random_images(2, 80), torch.tensor([0.5, -1e8])
    names, shown = ("a\n\x1b[2J", "\ud800", "\u202e"), (r"a\n\x1b[2J", r"\ud800", r"\u202e")
    pictures = [draw_exits(images, out, limits, torch.zeros(2), n, patch_size=32) for n in (names, shown)]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_an_earlier_picture_stays_until_there_is_another(model, tmp_path, monkeypatch):
    path = tmp_path / "x[" / "y].png"  # "[/y]" ends something, in markup
    path.parent.mkdir()
    path.write_bytes(b"earlier")
    text = Console(file=StringIO(), width=120, markup=False)

    def fails(self, *args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fails)
        with pytest.raises(OSError, match="No space left"):
            run_demo(path, count=4, model=model, task=TASK, console=text)
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == [(path.name, b"earlier")]
    run_demo(path, count=4, model=model, task=TASK, console=text)
    assert Image.open(path).format == "PNG"


def test_what_cannot_be_drawn_or_written(model, tmp_path):
    out = prediction([1, 2], torch.zeros(2, 1, 2, dtype=torch.long))
    with pytest.raises(InputError, match="expected uint8"):
        draw_exits(torch.zeros(2, 3, 8, 9), out, torch.tensor([0.5, -1e8]), torch.zeros(2), patch_size=4)
    for target, options in (
        (tmp_path / "no" / "x.png", {}),
        (tmp_path / "x.jpg", {}),
        (tmp_path / "x.png", {"count": 0}),
    ):
        with pytest.raises(InputError, match="expected"):
            run_demo(target, model=model, task=TASK, **options)
    with pytest.raises(InputError, match="expected a model of 192 px"):
        run_demo(tmp_path / "x.png", model=model)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"expected a .png file in a folder that exists, got .*folder\.png"):
        run_demo(tmp_path / "folder.png", model=model, task=TASK)


def test_wilson_s_interval():
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_command_line_writes_the_picture(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gfnet-fast", "demo", "-o", str(tmp_path / "d.png"), "--count", "20"])
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capsys.readouterr()
    assert (left.value.code or 0, "early exit" in out) == (0, True), err
    assert Image.open(tmp_path / "d.png").format == "PNG"
