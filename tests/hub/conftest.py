"""A server, an empty cache, and one released model that is small."""

import io

import pytest
import torch

from gfnet_fast.checkpoints import official_checkpoint
from gfnet_fast.config import GFNetConfig
from gfnet_fast.hub import download
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.model.quantised import Graph, Quantised, shapes_of
from tests.hub.server import serving
from tests.model.test_released import any_weights

NAME = "resnet50-96"


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "GFNET_FAST_MIRROR", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with serving() as found:
        yield found


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where models are kept; made when there is one to keep."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "gfnet_fast"


@pytest.fixture(scope="session")
def small_config():
    return GFNetConfig(
        "resnet50", "timm/resnet18", 96, 5, 224, policy="linear", classes=3, classifier_width=16,
        policy_width=16, policy_hidden=8, backbone_args={"channels": [16] * 4, "layers": [1] * 4},
        macs=(1, 2, 3, 4, 5),
    )  # fmt: skip


@pytest.fixture
def small(small_config, monkeypatch):
    """In the place of all released configurations; multiply-adds take no time to count."""
    for module in ("model.gfnet", "checkpoints.tensors"):
        monkeypatch.setattr(f"gfnet_fast.{module}.count_macs", lambda _: small_config.macs)
    for module in ("config", "checkpoints.official"):
        monkeypatch.setattr(f"gfnet_fast.{module}.RELEASED", (small_config,))
    return small_config


@pytest.fixture(scope="session")
def content(small_config):
    """What is in the file of that model: `official_checkpoint`, as a dictionary of a file's bytes by form."""
    with pytest.MonkeyPatch.context() as patch:
        known = small_config.replace(classes=1000, macs=small_config.macs)  # as all that are released
        patch.setattr("gfnet_fast.checkpoints.official.RELEASED", (known,))
        torch.manual_seed(0)
        model = any_weights(small_config)
        return {form: saved(official_checkpoint(model, form)) for form in ("released", "training")}


def with_int8(model: GFNet) -> GFNet:
    """The model with files of an int8 form, which loading checks and nothing could compute."""
    shapes = shapes_of(model)
    graphs = {name: Graph(b"<net/>", name.encode(), shape) for name, shape in shapes.items()}
    model.quantised = Quantised(graphs, model.weights_digest(), dict.fromkeys(graphs, ()))
    return model


def saved(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
