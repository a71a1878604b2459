"""What a run begins with: a job that can be done, and a model's first weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from gfnet_fast.checkpoints import imagenet, load
from gfnet_fast.checkpoints.files import obtain
from gfnet_fast.checkpoints.tensors import differences, require
from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.folder import TrainingReader
from gfnet_fast.errors import InputError, shown
from gfnet_fast.model.classifiers import CascadedClassifier
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.distributed import World
from gfnet_fast.training.job import Job
from gfnet_fast.training.pretrained import Pretrained, check_stride, load_pretrained


def check_job(job: Job, world: World) -> None:
    """Raise InputError where a job's settings do not go together."""
    config = job.training
    if config.batch % (world.size * config.accumulate):
        many = f"{world.size} processes x {config.accumulate} parts"
        raise InputError(f"batch: expected a multiple of {many}, got {config.batch}")
    if not (config.train_global or job.pretrained or job.init or config.epochs[0]):
        raise InputError(
            "train_global: expected weights for the global encoder, which is not trained, got none: give "
            "--pretrained, stage-0 epochs, or --set train_global=true"
        )
    if job.output.resolve().is_relative_to(job.data.resolve()):
        raise InputError(f"output: expected a folder outside {job.data}, got {job.output}")


def check_classes(folder: Path, classes: tuple[str, ...]) -> None:
    """Raise InputError where a class's name cannot be written into a model's folder."""
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{folder}: expected classes named in UTF-8, got {shown(name)}") from None


def check_parts(model: GFNet, config: TrainConfig, world: World) -> None:
    """Raise InputError where batch norm would see single images."""
    each = config.batch // (world.size * config.accumulate)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if each < 2 and norms and config.batch_norm == "batch":
        many = f"{world.size} processes x {config.accumulate} parts"
        raise InputError(
            f"batch: expected at least 2 images a part (batch norm), got {config.batch} for {many}"
        )


def training_reader(network: GFNetConfig, c: TrainConfig) -> TrainingReader:
    changes = c.color_jitter, c.auto_augment, c.erase
    return TrainingReader(network, c.scale, c.flip, *changes, vertical_flip=c.vertical_flip)


def new_model(config: GFNetConfig, job: Job) -> GFNet:
    torch.manual_seed(job.training.seed)
    model = GFNet(config)
    check_stride(model)
    return model


def begin_with(model: GFNet, job: Job, classes: tuple[str, ...], stages: Sequence[int]) -> Pretrained | None:
    """The weights of another model, or the backbone's pretrained ones, which are described."""
    if job.init is not None:
        init = load(job.init, config=None if obtain(job.init).is_dir() else model.config)
        weights = init.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        require(job.init, differences(weights, shapes))
        if not _named_alike(init.labels, classes) and not {1, 3} & set(stages):
            raise InputError(
                f"{job.init}: expected the classes {list(classes)}, or stage 1 or 3 to learn them, "
                f"got {list(init.labels or ())}"
            )
        model.load_state_dict(weights)
    return load_pretrained(model, job.pretrained) if job.pretrained else None


def _named_alike(labels: tuple[str, ...] | None, classes: tuple[str, ...]) -> bool:
    """Whether the classes of a model may be those of folders of these names, in this order."""
    as_folders = imagenet.folders() if labels == imagenet.labels() else None
    return labels is None or classes in (labels, as_folders)


@torch.no_grad()
def begin_from_global(model: GFNet) -> None:
    """Give the local encoder the global one's weights, and a cascaded classifier the mean of their heads."""
    encoder = model.global_encoder
    model.local_encoder.load_state_dict(encoder.state_dict())
    if not isinstance(model.classifier, CascadedClassifier):
        return
    bias = encoder.head(torch.zeros(1, model.feature_dim, device=model.device))
    weight = (encoder.head(torch.eye(model.feature_dim, device=model.device)) - bias).T
    for layer in model.classifier.children():
        assert isinstance(layer, nn.Linear)
        count = layer.in_features // model.feature_dim
        layer.weight.copy_(weight.repeat(1, count) / count)
        layer.bias.copy_(bias[0])
