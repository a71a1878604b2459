"""Training on a folder of images: what a run leaves, what it refuses, several processes, where it begins."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from gfnet_fast.checkpoints import load
from gfnet_fast.checkpoints.official import official_form
from gfnet_fast.config import RELEASED
from gfnet_fast.data.folder import evaluation_reader, read_parts
from gfnet_fast.errors import CheckpointError, InputError, TrainingError
from gfnet_fast.exits import ModelIdentity, calibrate
from gfnet_fast.model.backbones import build_encoder
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training import run as runs
from gfnet_fast.training.best import Seen
from gfnet_fast.training.config import TrainConfig, family_config, model_config
from gfnet_fast.training.distributed import World
from gfnet_fast.training.folder import train_folder
from gfnet_fast.training.job import Job, Manner
from gfnet_fast.training.pretrained import stride_of
from gfnet_fast.training.start import check_parts
from tests.training.folder_helpers import (
    CONVNEXT,
    QUIET,
    RESNET,
    assert_bit_equal,
    make_job,
    train,
    weights,
    write_pictures,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run, with workers."""
    output = tmp_path_factory.mktemp("trained") / "run"
    manner = replace(QUIET, workers=2, export="official", tensorboard=True)
    return output, train(data, output, manner=manner)


# --- what is left -------------------------------------------------------------------------------------


def test_a_model_that_is_ready(trained, data):
    output, found = trained
    model = load(output)
    assert model.labels == ("a", "b", "c")
    assert model.config.macs is not None
    assert json.loads((output / "evaluation.json").read_text()) == json.loads(json.dumps(found))
    assert found["count"] == 3
    assert found["heldout"] == 3
    assert found["stages"] == [0, 1, 2, 3]
    assert set(found["policies"]) == {"learned", "random"}
    assert not list(output.glob("*.part"))


def test_thresholds_are_those_of_heldout_images(trained, data):
    """Preprocessed as for the predictor, without augmentation; worked out again from the model's trace."""
    model, part = load(trained[0]), read_parts(data).heldout
    read = evaluation_reader(model.config)
    images = torch.stack([read(part.path(row)) for row in range(len(part))])
    confidence, label = model.trace(model.normalise(images)).logits.softmax(-1).max(-1)
    right = label == torch.from_numpy(part.labels)
    identity = ModelIdentity.of(model)
    expected = calibrate(identity, confidence.numpy(), right.numpy())
    torch.testing.assert_close(model.thresholds, torch.from_numpy(expected.thresholds), rtol=1e-4, atol=1e-4)
    assert model.calibration.data_hash == part.digest
    assert model.calibration.count == len(part)


def test_metrics(trained):
    lines = [json.loads(line) for line in (trained[0] / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["epoch"]) for row in lines] == [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]
    assert all(row["loss"] > 0 for row in lines)
    seconds = [row["seconds"] for row in lines]
    assert seconds == sorted(seconds)
    for row in lines[1:]:
        assert len(row["accuracy"]) == 3
    assert lines[0]["what"] == "thumbnails"
    assert len(lines[1]["losses"]) == 3
    assert len(lines[3]["reward"]) == len(lines[3]["spread"]) == 2
    assert lines[3]["entropy"] == pytest.approx(-1.767293)


def test_the_official_export(trained):
    output, _ = trained
    model = load(output)
    official = load(output / "official.pth.tar", config=model.config)
    assert_bit_equal(official.state_dict(), model.state_dict())


def test_the_official_export_of_a_released_network(tmp_path):
    """Says itself what it is."""
    data, backbone = write_pictures(tmp_path / "images", count=3, classes="ab"), "timm/mobilenetv3_large_100"
    training = family_config(backbone, epochs=(0, 1, 0, 0), batch=2, train_global=True)
    job = Job(data, tmp_path / "run", backbone, 96, 3, 224, training, {})
    train_folder(job, manner=replace(QUIET, export="official"))
    official, model = load(tmp_path / "run" / "official.pth.tar"), load(tmp_path / "run")
    assert official.config == model.config
    assert_bit_equal(official.state_dict(), model.state_dict())
    assert torch.equal(official.thresholds, model.thresholds)


@pytest.mark.parametrize(
    ("changes", "form"),
    [
        ({}, "released"),
        ({"classes": 20, "macs": (1, 2, 3, 4, 5)}, "released"),
        ({"steps": 4}, "training"),
        ({"image_size": 256}, "training"),
        ({"patch_size": 64}, "training"),
        ({"policy_width": 512}, "training"),
    ],
    ids=str,
)
def test_only_a_released_network_has_the_released_form(changes, form):
    assert official_form(RELEASED[0].replace(**changes)) == form


def test_workers_do_not_change_a_run(trained, data, tmp_path):
    train(data, tmp_path / "run")
    assert_bit_equal(weights(tmp_path / "run"), weights(trained[0]))


# --- how a batch is divided ---------------------------------------------------------------------------

DIVIDED = {
    "network": CONVNEXT,
    "epochs": (1, 1, 1, 1),
    "auto_augment": "rand-m9-mstd0.5",
    "reward": "contrast",
    "policy_lr": 2e-5,  # Adam makes whole steps of gradients that are nothing but rounding
}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    train(data, output, **DIVIDED)
    return output


def assert_near(output, whole):
    """1e-5 of weights that have moved by far more."""
    ours, theirs = weights(output), weights(whole)
    torch.manual_seed(0)
    start = GFNet(load(whole).config).state_dict()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-5, msg=name)
    for part in ("global_encoder", "local_encoder", "policy", "classifier"):
        moved = max((theirs[name] - start[name]).abs().max() for name in start if name.startswith(part))
        assert moved > (2e-5 if part == "policy" else 3e-4), part


def test_a_batch_in_parts(data, whole, tmp_path):
    """And in another layout."""
    train(data, tmp_path / "run", manner=replace(QUIET, channels_last=True), accumulate=4, **DIVIDED)
    assert_near(tmp_path / "run", whole)


TWO_PROCESSES = """
import os
import sys
from dataclasses import replace
from pathlib import Path
from gfnet_fast.cli import main
from tests.training.folder_helpers import QUIET, train
from tests.training.test_training_folder import DIVIDED

train(Path(sys.argv[1]), Path(sys.argv[2]), manner=replace(QUIET, quiet=False), **DIVIDED)
# torchrun's store still holds where the first run's processes met: the second meets at a store of its own.
os.environ.update(TORCHELASTIC_USE_AGENT_STORE="False", MASTER_PORT=sys.argv[3])
sys.argv[1:] = sys.argv[4:]
main()
"""


class Together(NamedTuple):
    """What two processes left: a run of `train`, and one of the command on a folder with broken images."""

    run: Path
    command_run: Path
    broken: list[Path]
    out: str
    errors: str


@pytest.fixture(scope="module")
def together(data, tmp_path_factory) -> Together:
    """Both runs under one torchrun: three processes that import torch take longer than the runs."""
    folder = tmp_path_factory.mktemp("together")
    for name in ("train", "heldout", "val"):
        write_pictures(folder / "images" / name, count=4)
    broken = [folder / "images" / name for name in ("heldout/a/01.png", "train/b/03.png")]
    for path in broken:
        path.write_bytes(b"no picture")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    sizes = ["--backbone", RESNET[0], "--patch-size", "32", "--steps", "3", "--image-size", "48"]
    model = [part for k, v in RESNET[1].items() for part in ("--set", f"model.{k}={json.dumps(v)}")]
    command = ["train", "--data", folder / "images", "--output", folder / "command", *sizes, *model]
    manner = ["--device", "cpu", "--batch", 12, "--set", "epochs=0,1,0,0", "--workers", 0, "--bad-images", 2]
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    arguments = [sys.executable, "-c", TWO_PROCESSES, data, folder / "run", port, *command, *manner]
    done = subprocess.run(
        [sys.executable, *torchrun, *map(str, arguments)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return Together(folder / "run", folder / "command", broken, done.stdout, done.stderr)


def test_two_processes_are_one(whole, together):
    """Under torchrun, each with half of every batch; one of them says what there is to say."""
    assert_near(together.run, whole)
    assert together.errors.count("stage 2 (3 of 4), epoch 1 of 1: loss") == 1
    ours, theirs = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (together.run, whole)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert mine["accuracy"] == pytest.approx(other["accuracy"], abs=1e-6)
    assert load(together.run).calibration.count == load(whole).calibration.count


def test_two_processes_name_images_and_results_once(together):
    """Of the thresholds' images the second process reads the one that is broken; it says nothing itself."""
    assert together.out.count("right after 3 steps") == 1
    for path in together.broken:
        assert together.errors.count(f"skipped: {path}: expected an image") == 1
    found = json.loads((together.command_run / "evaluation.json").read_text())
    assert found["bad_images"] == [str(path) for path in together.broken]


def test_batch_norm_takes_no_single_images(data, tmp_path, small):
    message = r"batch: expected at least 2 images a part \(batch norm\), got 8 for 1 processes x 8 parts"
    with pytest.raises(InputError, match=message):
        train(data, tmp_path / "run", accumulate=8)
    assert not (tmp_path / "run").exists()
    config, two = TrainConfig(batch=2), World(size=2)
    with pytest.raises(InputError, match="got 2 for 2 processes x 1 parts"):
        check_parts(small, config, two)
    check_parts(GFNet(model_config(CONVNEXT[0], 32, 3, 48, 3, **CONVNEXT[1])), config, two)


def test_a_batch_that_cannot_be_divided(data, tmp_path):
    with pytest.raises(InputError, match="accumulate: expected a divisor of batch 8, got 3"):
        train(data, tmp_path / "run", accumulate=3)
    with pytest.raises(InputError, match="batch: expected at most the 24 training images, got 25"):
        train(data, tmp_path / "run", batch=25)
    assert not (tmp_path / "run").exists()


# --- where it begins ----------------------------------------------------------------------------------


def test_the_average_of_the_weights(data, tmp_path, monkeypatch):
    """A stage ends with e <- d e + (1 - d) w over its updates, from the weights that it began with.

    Where it is the best that it has had, that is.
    """
    losses = iter([3.0, 2.0, 1.0])
    monkeypatch.setattr(runs.Look, "__call__", lambda self, model, stage: Seen(next(losses), [0.0]))
    states, original = [], runs.Run._after
    monkeypatch.setattr(
        runs.Run,
        "_after",
        lambda self: (
            states.append({k: v.clone() for k, v in self.model.state_dict().items()}),
            original(self),
        ),
    )
    settings = {"epochs": (0, 2, 0, 0), "ema": 0.75}
    train(data, tmp_path / "run", **settings)
    torch.manual_seed(0)
    job = make_job(data, tmp_path, **settings)
    expected = GFNet(model_config(job.backbone, 32, 3, 48, 3, **job.model)).state_dict()
    for state in states:
        expected = {
            name: 0.75 * value + 0.25 * state[name] if value.is_floating_point() else state[name]
            for name, value in expected.items()
        }
    assert len(states) == 6
    for name, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_model_to_begin_with(data, trained, tmp_path):
    job = replace(make_job(data, tmp_path / "run", epochs=(0, 0, 1, 0)), init=trained[0])
    train_folder(job, manner=QUIET)
    first, second = load(trained[0]), load(tmp_path / "run")
    assert first.calibration.model.weights == first.weights_digest() != second.weights_digest()
    assert second.calibration.model == ModelIdentity.of(second)
    before, after = first.state_dict(), weights(tmp_path / "run")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"policy"}


def test_a_model_of_another_shape(data, trained, tmp_path):
    job = make_job(data, tmp_path / "run", ("timm/resnet18", {**RESNET[1], "classifier_width": 24}))
    with pytest.raises(CheckpointError, match=r"classifier.*expected shape \[.*\], got \[.*; and \d more"):
        train_folder(replace(job, init=trained[0]), manner=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_model_of_other_classes(data, trained, tmp_path, monkeypatch):
    """Only where the classifier is trained."""
    other = write_pictures(tmp_path / "images", classes="abd")
    job = replace(make_job(other, tmp_path / "run"), init=trained[0])
    message = r"run: expected the classes \['a', 'b', 'd'\], or stage 1 or 3.*got \['a', 'b', 'c'\]"
    with pytest.raises(InputError, match=message):
        train_folder(job, [0, 2], QUIET)
    assert not (tmp_path / "run").exists()
    done = []
    monkeypatch.setattr(runs.Run, "_train", lambda self, number: done.append(number))
    train_folder(job, [2, 3], QUIET)
    assert done == [2, 3]
    assert load(tmp_path / "run").labels == ("a", "b", "d")


@pytest.fixture(scope="module")
def small():
    return GFNet(model_config("timm/resnet18", 32, 3, 48, 3, **RESNET[1]))


@pytest.mark.parametrize(("args", "stride"), [({}, 32), ({"output_stride": 8}, 8)], ids=["32", "8"])
def test_strides(args, stride):
    assert stride_of(build_encoder("timm/resnet18", 3, **RESNET[1]["backbone_args"], **args)) == stride


# --- what is refused, and what stops a run ------------------------------------------------------------


def test_an_unknown_augmentation_leaves_nothing(data, tmp_path):
    with pytest.raises(InputError, match="augmentation: expected what timm knows"):
        train(data, tmp_path / "run", auto_augment="no-such-policy")
    assert not (tmp_path / "run").exists()


def test_a_global_encoder_that_nothing_trains(data, tmp_path):
    """A family whose published recipe freezes it, without weights to begin with."""
    job = make_job(data, tmp_path / "run", epochs=(0, 1, 0, 0), train_global=False)
    with pytest.raises(InputError, match=r"train_global: expected weights for the global encoder.*got none"):
        train_folder(job, manner=QUIET)
    assert not (tmp_path / "run").exists()


def test_an_output_among_the_images(data):
    with pytest.raises(InputError, match=r"output: expected a folder outside .*images, got .*run"):
        train(data, data / "a" / ".." / "run")
    assert sorted(path.name for path in data.iterdir()) == ["a", "b", "c"]


def test_a_patch_size_that_the_stride_does_not_divide(data, tmp_path):
    job = replace(make_job(data, tmp_path / "run"), patch_size=40)
    message = r"patch_size: expected a multiple of timm/resnet18's stride 32 \(32 or 64\), got 40"
    with pytest.raises(InputError, match=message):
        train_folder(job, manner=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number(data, tmp_path):
    """The batch is kept, the checkpoint before it stays, and a run on it stops in the same place."""
    settings = {"epochs": (0, 1, 0, 0), "backbone_lr": 1e18}
    output, kept = tmp_path / "run", "failed-stage1-epoch0-batch"
    with pytest.raises(TrainingError, match=rf"finite.*the batch is in .*{kept}\d.pt"):
        train(data, output, manner=Manner(device="cpu", checkpoint_every=1, quiet=True), **settings)
    (path,) = output.glob(f"{kept}*.pt")
    failed = torch.load(path, weights_only=True)
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert (failed["stage"], failed["epoch"], failed["batch"]) == (1, 0, state["batch"])
    assert failed["images"].dtype == torch.uint8
    assert failed["images"].shape == (8, 48, 48, 3)
    assert failed["labels"].shape == (8,)
    before = (output / "checkpoint.pt").read_bytes()
    with pytest.raises(TrainingError, match=path.name):
        train(data, output, manner=Manner(device="cpu", checkpoint_every=1, quiet=True), **settings)
    assert (output / "checkpoint.pt").read_bytes() == before
    assert not (output / "model.safetensors").exists()


def test_unreadable_images(tmp_path, capfd, monkeypatch):
    """Others stand in for them: every batch has its size."""
    sizes, original = [], runs.Run._after
    monkeypatch.setattr(
        runs.Run, "_after", lambda self: (sizes.append(len(self.batch.labels)), original(self))
    )
    data = write_pictures(tmp_path / "images")
    broken = [data / "a" / "03.png", data / "b" / "05.png"]
    for path in broken:
        path.write_bytes(b"no picture")
    settings = {"epochs": (0, 2, 0, 0)}
    manner = Manner(device="cpu", bad_images=2)
    found = train(data, tmp_path / "run", manner=manner, **settings)
    assert found["bad_images"] == [str(path) for path in broken]
    assert sizes == [8] * 6
    said = capfd.readouterr().err
    assert all(said.count(f"skipped: {path}: expected an image") == 1 for path in broken)
    message = r"images: expected at most 1 unreadable images, got 2: .*0\d.png, .*0\d.png"
    with pytest.raises(InputError, match=message):
        train(data, tmp_path / "other", manner=replace(manner, bad_images=1), **settings)
    with pytest.raises(InputError, match="expected at most 0 unreadable images, got 2"):
        train(data, tmp_path / "run", manner=replace(manner, bad_images=0), **settings)


@pytest.mark.parametrize("part", ["heldout", "val"])
def test_a_part_without_a_readable_image(tmp_path, part):
    data = tmp_path / "images"
    for name in ("train", "heldout", "val"):
        write_pictures(data / name, count=2)
    for path in (data / part).rglob("*.png"):
        path.write_bytes(b"no picture")
    manner = replace(QUIET, bad_images=6)
    with pytest.raises(InputError, match=rf"{part}: expected a readable image, got none of 6$"):
        train(data, tmp_path / "run", [1], manner, batch=6, epochs=(0, 1, 0, 0))


def test_tensorboard_reads_what_the_metrics_say(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0] / "tensorboard")).Reload()
    rows = [json.loads(line) for line in (trained[0] / "metrics.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        for key in row.keys() - {"stage", "epoch", "what", "seconds"}:
            values = row[key] if isinstance(row[key], list) else [row[key]]
            for step, value in enumerate(values, 1):
                name = f"stage {row['stage']}/{key}" + (f" {step}" if len(values) > 1 else "")
                found = [point.value for point in events.Scalars(name) if point.step == row["epoch"]]
                assert found == [pytest.approx(value, 1e-6)]


def test_tensorboard_that_is_not_there(data, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tensorboard: expected the package.*gfnet-fast\[train\]"):
        train(data, tmp_path / "run", manner=replace(QUIET, tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_one_class(tmp_path):
    data = write_pictures(tmp_path / "images", classes="a")
    with pytest.raises(InputError, match=r"expected two or more folders, one a class, got \['a'\]"):
        train(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_that_no_model_can_name(tmp_path):
    data = write_pictures(tmp_path / "images")
    (data / "c").rename(data / os.fsdecode(b"c\xff"))
    with pytest.raises(InputError, match=r"images: expected classes named in UTF-8, got 'c\\udcff'"):
        train(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_empty_class(tmp_path):
    data = write_pictures(tmp_path / "images")
    (data / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: expected images .* got an empty class"):
        train(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
