"""Weights in half precision in a native folder: which, how exactly, and what is refused."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from gfnet_fast.checkpoints import load, native
from gfnet_fast.errors import CheckpointError
from tests.cli.cli_runner import run
from tests.conftest import tiny_model

WEIGHT, BIAS = "classifier.fc.weight", "classifier.fc.bias"
BATCH_NORM = "local_encoder.backbone.bn1"


def small():
    return tiny_model(backbone_args={"channels": [16] * 4, "layers": [1] * 4}, policy_hidden=8)


@pytest.fixture(scope="module")
def model():
    """All parameters in the range where float16 is exact to 2^-11, and statistics where it is not."""
    model = small()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.where(tensor.abs() < 1e-3, 1e-3, tensor))
        for name, tensor in model.named_buffers():
            if name.endswith("running_var"):
                tensor.fill_(1.23456e-6)
    return model


def stored(folder):
    return load_file(folder / "model.safetensors")


def test_a_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path / "half", half=True)
    found, again = stored(tmp_path / "half"), load(tmp_path / "half")
    parameters = {name for name, _ in model.named_parameters()}
    for name, wanted in model.state_dict().items():
        assert found[name].dtype == (torch.float16 if name in parameters else wanted.dtype), name
        assert torch.equal(found[name], wanted.half() if name in parameters else wanted), name
        assert torch.equal(again.state_dict()[name], found[name].to(wanted.dtype)), name
    assert {tensor.dtype for tensor in again.parameters()} == {torch.float32}
    again.save_pretrained(tmp_path / "again", half=True)  # what float16 holds changes no more
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        tmp_path / "half/model.safetensors"
    ).read_bytes()
    assert json.loads((tmp_path / "half/config.json").read_text())["config"] == model.config.to_dict()


def test_it_is_smaller_by_two_bytes_a_parameter(model, tmp_path):
    model.save_pretrained(tmp_path / "single")
    model.save_pretrained(tmp_path / "half", half=True)
    count = sum(tensor.numel() for tensor in model.parameters())
    saved = sum(tensor.nbytes for tensor in stored(tmp_path / "single").values()) - sum(
        tensor.nbytes for tensor in stored(tmp_path / "half").values()
    )
    assert saved == 2 * count
    sizes = [os.path.getsize(tmp_path / name / "model.safetensors") for name in ("single", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    assert {tensor.dtype for tensor in stored(tmp_path / "single").values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        ([0.1, 0.2, 0.3], torch.float16),
        ([0.0, 0.0, 0.0], torch.float16),
        ([6e-5, 3e-5, 6e-5], torch.float16),  # beneath the smallest normal number, 6.1e-5, and exact enough
        ([1.0, 1e-7, -1e-9], torch.float16),  # small ones beside a large one
        ([65504.0, 1.0, -65504.0], torch.float16),
        ([1e-5, 1.03e-5, 1e-5], torch.float32),  # float16 has steps of 6e-8 there
        ([1e-9, 0.0, 0.0], torch.float32),
        ([1e-30, 0.0, 0.0], torch.float32),  # whose square is nothing in float32
    ],
)
def test_a_tensor_that_would_change_stays_in_float32(row, dtype):
    values = torch.tensor([row, row])
    found = native._halved("w", values)
    assert found.dtype == dtype
    assert torch.equal(found, values.to(dtype))
    assert (found.float() - values).double().norm() <= 1e-3 * values.double().norm()


def test_outputs_that_training_let_go_of_do_not_keep_the_others_in_float32():
    """Rows of some 1e-7 beside those of 1, as weight decay leaves them in released networks."""
    found = native._halved("w", torch.tensor([[1.0, 2.0, 3.0], [1.03e-7, 0.0, 1e-9]]))
    assert torch.equal(found, torch.tensor([[1.0, 2.0, 3.0], [2 * 2.0**-24, 0.0, 0.0]]).half())


@pytest.mark.parametrize("shape", [(), (1,), (4,), (0,), (0, 3), (2, 3, 1, 1)])
def test_tensors_of_any_shape(shape):
    found = native._halved("w", torch.full(shape, 0.1))
    assert torch.equal(found, torch.full(shape, 0.1, dtype=torch.float16))
    assert native._halved("w", torch.full(shape, 1.03e-6)).dtype == (
        torch.float16 if 0 in shape else torch.float32
    )


@pytest.mark.parametrize("large", [65520.0, -7e4, 1e38, torch.inf])
def test_numbers_beyond_float16_are_refused_before_anything_is_written(model, tmp_path, large):
    weights = model.get_parameter(WEIGHT).data
    try:
        model.get_parameter(WEIGHT).data = weights.clone().index_fill(0, torch.tensor([2]), large)
        with pytest.raises(CheckpointError) as raised:
            model.save_pretrained(tmp_path / "half", half=True)
    finally:
        model.get_parameter(WEIGHT).data = weights
    assert str(raised.value) == (
        f"{WEIGHT}: expected numbers of at most 65504 for float16, got {abs(large):g}"
    )
    assert not (tmp_path / "half").exists()


def test_statistics_beyond_float16_are_none_of_its_business(tmp_path):
    model = small()
    model.get_buffer(f"{BATCH_NORM}.running_var").fill_(1e6)
    model.save_pretrained(tmp_path, half=True)
    assert float(load(tmp_path).get_buffer(f"{BATCH_NORM}.running_var")[0]) == 1e6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_that_is_in_another_precision(model, tmp_path, dtype):
    other = small()
    other.load_state_dict(model.state_dict())
    other.to(dtype).save_pretrained(tmp_path, half=True)
    assert stored(tmp_path)[WEIGHT].dtype == torch.float16
    assert stored(tmp_path)[f"{BATCH_NORM}.running_var"].dtype == torch.float32
    wanted = model.get_parameter(WEIGHT).to(dtype).half().float()
    assert torch.equal(load(tmp_path).get_parameter(WEIGHT), wanted)


def rewritten(folder, **tensors):
    (folder / "model.safetensors").write_bytes(safetensors_bytes({**stored(folder), **tensors}))
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32_too(model, tmp_path, dtype):
    model.save_pretrained(tmp_path, half=True)
    bias = torch.linspace(-3, 3, 7).to(dtype)
    found = load(rewritten(tmp_path, **{BIAS: bias})).get_parameter(BIAS)
    assert found.dtype == torch.float32
    assert torch.equal(found, bias.float())


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (f"{BATCH_NORM}.num_batches_tracked", torch.tensor(3.0).half(), "an integer, got torch.float16"),
        (BIAS, torch.full((7,), torch.inf).half(), "finite numbers in float32, got 7 that are not"),
        (BIAS, torch.full((7,), torch.nan).half(), "finite numbers in float32, got 7 that are not"),
        (BIAS, torch.zeros(7, dtype=torch.int16), "a floating-point tensor, got torch.int16"),
        (BIAS, torch.zeros(8).half(), r"shape \[7\], got \[8\]"),
        (f"{BATCH_NORM}.running_var", torch.full((64,), -1.0).half(), "variances of at least 0, got -1"),
    ],
)
def test_halves_that_are_no_weights(model, tmp_path, name, values, message):
    model.save_pretrained(tmp_path, half=True)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {name}: expected {message}"):
        load(rewritten(tmp_path, **{name: values}))


def test_convert_to_half_and_back(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "single")
    assert run(capsys, "convert", tmp_path / "single", tmp_path / "half", "--half").status == 0
    assert stored(tmp_path / "half")[WEIGHT].dtype == torch.float16
    assert run(capsys, "convert", tmp_path / "half", tmp_path / "back").status == 0
    assert torch.equal(stored(tmp_path / "back")[WEIGHT], model.get_parameter(WEIGHT).half().float())
    done = run(capsys, "convert", tmp_path / "single", tmp_path / "x.pth", "--half", "--to", "training")
    assert (done.status, "--half: expected the native form, got --to training" in done.err) == (2, True)
    assert not (tmp_path / "x.pth").exists()
