"""The digest of a model's weights: the same for what answers alike, another after the least training."""

import pytest
import torch

from tests.conftest import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def copy(model):
    other = tiny_model(seed=1)
    other.load_state_dict(model.state_dict())
    return other


def test_it_is_a_short_text_of_the_weights_alone(model, copy):
    digest = model.weights_digest()
    assert len(digest) == 32
    assert set(digest) <= set("0123456789abcdef")
    copy.labels, copy.thresholds = tuple("abcdefg"), torch.tensor([[0.5, 0.5, 0.5, -1e8]])
    assert copy.train().weights_digest() == digest
    assert tiny_model(seed=1).weights_digest() != digest


def test_layouts_and_wider_numbers_make_no_difference(model, copy):
    digest = model.weights_digest()
    assert copy.to(memory_format=torch.channels_last).weights_digest() == digest
    assert copy.double().weights_digest() == digest


def test_it_is_the_same_in_chunks(model, monkeypatch):
    digest = model.weights_digest()
    monkeypatch.setattr("gfnet_fast.model.digest.CHUNK", 100)
    assert model.weights_digest() == digest


@torch.no_grad()
def test_a_float64_rounds_as_it_is_read_back(copy):
    """Above the middle of two halves by less than float32 holds: rounded once it would go up."""
    wide = copy.double()
    wide.get_parameter("classifier.fc.bias")[0] = 1 + 2**-11 + 2**-40
    digest = wide.weights_digest()
    assert wide.float().weights_digest() == digest


@torch.no_grad()
def test_rounding_to_half_keeps_it(model, copy):
    assert not torch.equal(copy.half().classifier.fc.weight.float(), model.classifier.fc.weight)
    assert copy.float().weights_digest() == model.weights_digest()


def test_one_step_of_training_changes_it(model, copy):
    images = torch.randn(2, 3, 80, 80)
    copy.train()(images).sum().backward()
    torch.optim.SGD(copy.parameters(), lr=1e-2).step()
    assert copy.weights_digest() != model.weights_digest()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("global_encoder.backbone.conv1.weight", True),
        ("local_encoder.backbone.bn1.running_mean", True),
        ("policy.actor.0.bias", True),
        ("classifier.fc.weight", True),
        ("policy.critic.weight", False),
        ("policy.critic.bias", False),
        ("local_encoder.backbone.bn1.num_batches_tracked", False),
    ],
)
def test_what_no_answer_depends_on_is_not_counted(model, copy, name, counts):
    copy.state_dict()[name].add_(1)
    assert (copy.weights_digest() != model.weights_digest()) == counts


def test_encoders_that_change_places_are_others(model, copy):
    places = {"global_encoder": "local_encoder", "local_encoder": "global_encoder"}
    parts = ((name.partition("."), tensor) for name, tensor in model.state_dict().items())
    copy.load_state_dict({f"{places.get(part, part)}.{rest}": t for (part, _, rest), t in parts})
    assert copy.weights_digest() != model.weights_digest()
