"""Sources in, results out."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses import FakeTensorMode
from torchvision import transforms, tv_tensors

import gfnet_fast as gf
from gfnet_fast.sources import read_image
from tests.conftest import needs_bfloat16, random_images, tiny_config


@pytest.fixture(scope="module")
def predictor(tiny):
    return gf.Predictor(tiny, device="cpu", budget=gf.Budget(thresholds=[0.5, 0.4, 0.3, -1e8]), batch=4)


@pytest.fixture(scope="module")
def pictures():
    """Eleven PIL images of different sizes."""
    sizes = [(90 + 7 * k, 200 - 9 * k) for k in range(11)]
    return [Image.fromarray(random_images(1, 240, k)[0].numpy()).resize(size) for k, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deeper").mkdir()
    for k, picture in enumerate(pictures):
        picture.save(folder / ("deeper" if k % 3 == 0 else "") / f"{k:02d}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize(("filter", "ratio"), [("bilinear", 0.875), ("bicubic", 0.904)])
def test_preprocessing_is_torchvision_s(pictures, mode, filter, ratio):
    config = tiny_config(resize_filter=filter, crop_ratio=ratio)
    for picture in pictures[:3]:
        image = picture.convert(mode)
        official = transforms.Compose(
            [
                transforms.Resize(int(config.image_size / ratio), transforms.InterpolationMode(filter)),
                transforms.CenterCrop(config.image_size),
            ]
        )
        expected = np.array(official(image.convert("RGB")))
        assert np.array_equal(read_image(image, config).numpy(), expected)


def test_every_kind_of_source_gives_the_same(predictor, pictures, tmp_path):
    path = tmp_path / "one.png"
    pictures[3].save(path)
    array = np.array(pictures[3])
    tensor = torch.from_numpy(array.copy())
    results = predictor(
        [path, str(path), pictures[3], array, array.transpose(2, 0, 1), tensor, tensor.permute(2, 0, 1)]
    )
    assert len({(r.class_id, r.exit_step, r.origins, round(r.confidence, 4)) for r in results}) == 1
    assert [r.source for r in results[:4]] == [str(path), str(path), "Image 2", "ndarray 3"]
    assert predictor(path).class_id == results[0].class_id
    prepared = predictor.model.normalise(read_image(path, predictor.config)[None])[0]
    assert predictor(prepared).class_id == results[0].class_id


def test_folders_and_globs_in_path_order(predictor, folder):
    results = predictor([folder])
    assert [r.source for r in results] == [str(p) for p in sorted(folder.rglob("*.png"))]
    assert len(results) == 11
    flat = predictor((str(folder / "*.png"),))
    assert [r.source for r in flat] == [str(p) for p in sorted(folder.glob("*.png"))]
    assert isinstance(predictor(folder / "01.png"), gf.Result)
    for many in (folder, str(folder / "*.png")):
        with pytest.raises(gf.InputError, match="expected one image, or a list, got a folder or a glob"):
            predictor(many)


def test_results_say_what_the_steps_cost(predictor, folder):
    steps = set()
    for result in predictor.stream(folder):
        steps.add(result.exit_step)
        assert result.macs == predictor.config.macs[result.exit_step - 1]
        assert len(result.origins) == result.exit_step - 1
        assert result.logits.softmax(0).max().item() == pytest.approx(result.confidence, abs=1e-5)
    assert len(steps) > 1


def test_a_stream_is_lazy_and_bounded(predictor, pictures):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield pictures[taken % 11]

    stream = predictor.stream(endless())
    for _ in range(10):
        next(stream)
    # Decoded ahead, and in flight or waiting for their turn: capacity x steps, three batches of room.
    assert taken <= 10 + predictor.batch * (2 + 3 * predictor.config.steps)
    stream.close()


def test_a_stream_goes_on_where_asked(predictor, pictures):
    sources = [pictures[0], "nothing.png", np.zeros((3, 4), bool), pictures[1]]
    results = list(predictor.stream(iter(sources), on_error="return"))
    assert [r.error is None for r in results] == [True, False, False, True]
    assert "nothing.png: expected an image file, got nothing there" in results[1].error
    assert results[2].error.startswith("images[2]: expected uint8")
    assert [r.error for r in predictor(sources, on_error="return")] == [r.error for r in results]
    with pytest.raises(gf.InputError, match=r"nothing\.png"):
        list(predictor.stream(iter(sources)))


def test_a_producer_that_raises_is_heard(predictor, pictures):
    def broken():
        yield pictures[0]
        raise RuntimeError("the camera fell")

    with pytest.raises(RuntimeError, match="the camera fell"):
        list(predictor.stream(broken()))


def test_budgets_can_change_at_any_time(tiny):
    predictor = gf.Predictor(tiny, device="cpu")
    images = random_images(6, tiny.config.image_size)
    assert predictor.budget is None
    for steps in (1, 3, 2):
        predictor.budget = gf.Budget(max_steps=steps)
        assert predictor.predict_batch(images).exit_step.tolist() == [steps] * 6
    predictor.budget = gf.Budget(thresholds=[0, 0, 0, -1e8])
    assert predictor.predict_batch(images).exit_step.tolist() == [1] * 6
    with pytest.raises(gf.BudgetError, match="expected 4 numbers"):
        predictor.budget = gf.Budget(thresholds=[0.5, -1e8])
    with pytest.raises(gf.BudgetError, match="needs a calibration"):
        predictor.budget = gf.Budget(macs=1e6)
    assert predictor.budget.thresholds == (0, 0, 0, -1e8)


S = 80
BATCHES = {
    "empty": (torch.zeros(0, S, S, 3, dtype=torch.uint8), r"B >= 1.* got torch.uint8 \[0, 80, 80, 3\]"),
    "another size": (torch.zeros(2, S, S + 1, 3, dtype=torch.uint8), r"got torch.uint8 \[2, 80, 81, 3\]"),
    "another channel count": (
        torch.zeros(2, S, S, 4, dtype=torch.uint8),
        r"got torch.uint8 \[2, 80, 80, 4\]",
    ),
    "no batch": (torch.zeros(S, S, 3, dtype=torch.uint8), r"got torch.uint8 \[80, 80, 3\]"),
    "another dtype": (torch.zeros(1, 3, S, S, dtype=torch.int32), "got torch.int32"),
    "NaN": (torch.full((1, 3, S, S), torch.nan), "expected finite numbers up to 10000, got 19200"),
    "another device": (torch.zeros(1, 3, S, S, device="meta"), "expected device cpu, got meta"),
    "sparse": (torch.zeros(1, 3, S, S).to_sparse(), "got Tensor that is Sparse"),
    "no memory": (torch._efficientzerotensor((1, 3, S, S)), "got Tensor that is ZeroTensor"),
    "no tensor": ([1, 2], "expected a tensor, got list"),
    "an array": (np.zeros((1, S, S, 3), np.uint8), r"got ndarray; torch\.from_numpy"),
}


@pytest.mark.parametrize(("images", "message"), BATCHES.values(), ids=BATCHES)
def test_a_batch_that_is_wrong(predictor, images, message):
    with pytest.raises(gf.InputError, match=message):
        predictor.predict_batch(images)


def test_a_batch_is_the_numbers_it_shows(predictor):
    batch = predictor.model.normalise(random_images(6, S, 5))
    lazy = torch.complex(torch.zeros_like(batch), -batch).conj().imag
    assert lazy.is_neg()
    assert torch.equal(predictor.predict_batch(lazy).logits, predictor.predict_batch(batch).logits)
    image = tv_tensors.Image(batch)
    assert torch.equal(predictor.predict_batch(image).logits, predictor.predict_batch(batch).logits)
    with pytest.raises(gf.InputError, match=r"got Tensor that is .*Batched"):
        torch.func.vmap(lambda one: predictor.predict_batch(one[None]).class_id)(batch)
    with FakeTensorMode(), pytest.raises(gf.InputError, match="expected a plain tensor, got FakeTensor"):
        predictor.predict_batch(torch.zeros(1, 3, S, S))


ARRAYS = {
    "NaN pixels": (np.full((3, S, S), np.nan, np.float32), "expected finite numbers"),
    "float of another size": (np.zeros((3, S, S + 1), np.float32), r"got float32 \[3, 80, 81\]; give a pict"),
    "five channels": (np.zeros((S, S, 5), np.uint8), r"got uint8 \[80, 80, 5\]; of grey images give list"),
    "no pixel": (np.zeros((0, S, 3), np.uint8), r"got uint8 \[0, 80, 3\]"),
    "a number": (3, "got int"),
    "an empty list": ([], "expected at least one image"),
    "a strip": (np.zeros((2, 200_000, 3), np.uint8), "pixels after the resize"),
}


@pytest.mark.parametrize(("source", "message"), ARRAYS.values(), ids=ARRAYS)
def test_a_source_that_is_wrong(predictor, source, message):
    with pytest.raises(gf.InputError, match=message):
        predictor(source)


def png_that_claims(width, height):
    """A valid PNG header, and nothing like as many pixels."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_files_that_are_no_images(predictor, pictures, tmp_path):
    path = tmp_path / "image.png"
    with pytest.raises(gf.InputError, match="got nothing there"):
        predictor(path)
    path.write_bytes(b"some text")
    with pytest.raises(gf.InputError, match="expected an image, got a file of another kind"):
        predictor(path)
    for width, height in ((60_000, 60_000), (12_000, 12_000)):
        path.write_bytes(png_that_claims(width, height))
        with pytest.raises(gf.InputError, match=r"expected at most 134217728 pixels, got"):
            predictor(path)
    for suffix in ("png", "jpg"):
        pictures[0].save(tmp_path / f"cut.{suffix}")
        whole = (tmp_path / f"cut.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(gf.InputError, match="expected a whole image, got one that fails to decode"):
            predictor(tmp_path / f"cut.{suffix}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(gf.InputError, match=r"expected images .* got none"):
        predictor([tmp_path / "empty"])


def test_arguments_that_are_wrong(tiny):
    with pytest.raises(gf.InputError, match="expected a GFNet, got str"):
        gf.Predictor("model.pth")
    with pytest.raises(gf.InputError, match="expected a whole number of at least 1"):
        gf.Predictor(tiny, batch=0)
    with pytest.raises(gf.DeviceError, match="cuda:77"):
        gf.Predictor(tiny, device="cuda:77")
    with pytest.raises(gf.InputError, match="on_error"):
        gf.Predictor(tiny, device="cpu").stream([], on_error="ignore")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"dtype": "bfloat16"}, marks=needs_bfloat16),
        pytest.param({"dtype": torch.bfloat16}, marks=needs_bfloat16),
        {"runtime": "inductor"},
    ],
    ids=str,
)
def test_other_precisions_and_compiled_encoders_stay_close_and_leave_the_model_alone(tiny, options):
    images = random_images(12, tiny.config.image_size)
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    exact = gf.Predictor(tiny, device="cpu").predict_batch(images)
    fast = gf.Predictor(tiny, device="cpu", **options)
    out = fast.predict_batch(images)
    assert out.logits.dtype == torch.float32
    same = (out.origins == exact.origins).all(-1).all(-1)
    assert same.sum() >= 6
    torch.testing.assert_close(out.logits[same], exact.logits[same], rtol=0.1, atol=0.5)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.state_dict().items())
    assert tiny.trace(tiny.normalise(images)).logits.dtype == torch.float32


def test_precisions_that_are_not_there(tiny):
    for dtype in ("float16", "float8", torch.float64):
        with pytest.raises(gf.DeviceError, match="dtype: expected"):
            gf.Predictor(tiny, device="cpu", dtype=dtype)
    with pytest.raises(gf.DeviceError, match=r"runtime: expected one of .*, got 'sometimes'"):
        gf.Predictor(tiny, device="cpu", runtime="sometimes")


def test_images_that_pillow_would_cut_off_are_refused(predictor, tmp_path):
    deep = Image.fromarray((np.arange(90 * 90, dtype=np.uint16) * 8).reshape(90, 90))
    deep.save(tmp_path / "deep.png")
    for source in (deep, deep.convert("F"), tmp_path / "deep.png"):
        with pytest.raises(gf.InputError, match="expected 8 bits a channel"):
            predictor(source)


def test_frames_that_share_a_buffer_are_kept_apart(predictor):
    frames = random_images(9, 96, 4).numpy()
    expected = [result.logits for result in predictor(list(frames))]

    def camera():
        buffer = np.empty_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield buffer

    found = predictor(camera())
    assert len(found) == 9
    assert all(torch.allclose(a.logits, b, atol=1e-4) for a, b in zip(found, expected, strict=True))


def test_one_bad_source_of_any_kind_is_one_error(predictor, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    pictures[0].save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / "cut.png") as lazy:
        half = torch.zeros(3, 4, 4, dtype=torch.bfloat16)
        bad = [None, tmp_path / "empty", "x" * 300, lazy, half, torch.zeros(3, 4, 4, device="meta")]
        sources = [pictures[0], *bad, pictures[1]]
        results = list(predictor.stream(sources, on_error="return"))
    assert [r.error is None for r in results] == [True, *[False] * len(bad), True]
    with pytest.raises(gf.InputError, match="expected at least one image"):
        predictor(iter([]))
    with pytest.raises(gf.InputError, match="up to 10000"):
        predictor.predict_batch(torch.full((1, 3, S, S), 3e38))


def test_the_caller_s_model_stays_where_it_is(tiny):
    with pytest.raises(gf.DeviceError, match="holds no numbers"):
        gf.Predictor(tiny, device="meta")
    with pytest.raises(gf.BudgetError, match="expected a Budget or None"):
        gf.Predictor(tiny, device="cpu", budget=3)
    assert gf.Predictor(tiny, device="cpu").model is tiny
