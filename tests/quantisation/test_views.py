"""What the networks see is what they see in the trace, and a GRU of linear layers is a GRU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gfnet_fast.quantisation.views import Gates, networks_of, views_of
from tests.quantisation.int8_helpers import KINDS, pictures, small_model


def rows_of(columns):
    """The rows of several tensors, as bytes that can be sorted."""
    joined = torch.cat([column.flatten(1) for column in columns], 1)
    return sorted(row.numpy().tobytes() for row in joined)


def seen_in_a_trace(model, batches):
    """By name, what each network is called with while the model takes all steps."""
    seen, hooks = {}, []

    def note(name, *values):
        seen.setdefault(name, []).append(values)

    def gates(_, inputs):
        feature, memory = (*inputs, None)[:2]
        width = model.config.classifier_width
        note("classifier", feature, torch.zeros(len(feature), width) if memory is None else memory)

    def policy(_, inputs):
        (value,) = inputs
        if model.policy.flattens_first:  # an engine's maps lie channels-last
            value = value.unflatten(1, model.map_shape).permute(0, 2, 3, 1).flatten(1)
        note("policy", value)

    for name in ("global_encoder", "local_encoder"):
        encoder = getattr(model, name)
        hooks.append(encoder.register_forward_pre_hook(lambda _, inputs, name=name: note(name, *inputs)))
    hooks.append(model.policy.state_encoder.register_forward_pre_hook(policy))
    if model.config.classifier == "recurrent":
        hooks.append(model.classifier.gru.register_forward_pre_hook(gates))
    for batch in batches:
        model.trace(model.normalise(batch))
    for hook in hooks:
        hook.remove()
    return {name: [torch.cat(column) for column in zip(*calls, strict=True)] for name, calls in seen.items()}


@pytest.mark.parametrize("classifier", KINDS)
def test_they_are_those_of_every_step(classifier):
    model, batches = small_model(classifier), [pictures(4), pictures(3, 1)]
    wanted = seen_in_a_trace(model, batches)
    found = views_of(model, batches, 1000, seed=0)
    assert set(found) == set(wanted) == set(networks_of(model))
    counts = {name: len(columns[0]) for name, columns in found.items()}
    expected = {"global_encoder": 7, "local_encoder": 14, "policy": 14, "classifier": 21}
    assert counts == {name: expected[name] for name in found}
    for name, columns in found.items():
        assert rows_of(columns) == rows_of(wanted[name]), name


def test_some_of_them_are_the_same_for_the_same_seed():
    model, batches = small_model(), [pictures(4), pictures(3, 1)]
    everything = views_of(model, batches, 1000, seed=0)
    first, again, other = (views_of(model, iter(batches), 6, seed) for seed in (5, 5, 6))
    for name, columns in first.items():
        assert len(columns[0]) == 6
        assert set(rows_of(columns)) < set(rows_of(everything[name]))
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(columns, again[name], strict=True))
    assert rows_of(first["local_encoder"]) != rows_of(other["local_encoder"])


@pytest.mark.parametrize("classifier", KINDS)
def test_the_networks_compute_what_the_model_does(classifier):
    model = small_model(classifier)
    seen, networks = views_of(model, [pictures(5)], 1000, seed=0), networks_of(model)
    with torch.no_grad():
        found = networks["policy"](*seen["policy"])
        maps = seen["policy"][0]
        if model.policy.flattens_first:
            channels, rows, columns = model.map_shape
            maps = maps.unflatten(1, (rows, columns, channels)).permute(0, 3, 1, 2).flatten(1)
        torch.testing.assert_close(found, model.policy.state_encoder(maps), rtol=1e-5, atol=1e-5)
        for name in ("global_encoder", "local_encoder"):
            own = getattr(model, name)(*seen[name])
            torch.testing.assert_close(networks[name](*seen[name]), own)


def test_the_model_is_left_as_it_was():
    model = small_model().train()
    model.classifier.eval()
    modes = [module.training for module in model.modules()]
    views = views_of(model, [pictures(4)], 1000, seed=0)
    assert [module.training for module in model.modules()] == modes
    networks_of(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(column.requires_grad for columns in views.values() for column in columns)
    own = views_of(model.eval(), [pictures(4)], 1000, seed=0)
    assert rows_of(own["policy"]) == rows_of(views["policy"])


def test_a_gru_of_linear_layers():
    torch.manual_seed(0)
    cell = nn.GRUCell(12, 20)
    feature, memory = torch.randn(9, 12), torch.randn(9, 20)
    with torch.no_grad():
        torch.testing.assert_close(Gates(cell)(feature, memory), cell(feature, memory), rtol=1e-5, atol=1e-6)
        zeros = torch.zeros(9, 20)
        torch.testing.assert_close(Gates(cell)(feature, zeros), cell(feature), rtol=1e-5, atol=1e-6)
