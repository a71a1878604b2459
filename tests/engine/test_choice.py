"""What is known of runtimes' speeds: whatever the file holds, and who goes over to what when."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import gfnet_fast as gf
from gfnet_fast.engine import choice as choice_file
from gfnet_fast.engine.choice import Choice, Speed, contest
from gfnet_fast.engine.loop import Loop
from gfnet_fast.engine.runtimes.folded import Torch
from gfnet_fast.engine.runtimes.inductor import Inductor
from gfnet_fast.engine.runtimes.openvino import OpenVINO
from gfnet_fast.hub.sources import cache
from tests.conftest import random_images, tiny_config
from tests.engine.engine_helpers import engine_of, pretend, small_model

CPU = torch.device("cpu")
TORCH, OTHER = Speed(0.5, {1: 0.1, 4: 0.2}), Speed(5.0, {1: 0.02, 4: 0.04})


def choice_in(folder, **changes):
    return Choice(tiny_config(**changes), torch.float32, CPU, folder)


def test_what_was_noted_is_known_to_the_next(tmp_path):
    first = choice_in(tmp_path / "a" / "runtimes")
    assert first.speed("torch") is None
    assert first.seconds("torch", 64) is None
    first.note("torch", TORCH.prepare, TORCH.seconds)
    first.note("torch", 0.7, {4: 0.3, 16: 0.5})
    found = choice_in(tmp_path / "a" / "runtimes")
    assert found.speed("torch") == first.speed("torch") == Speed(0.7, {1: 0.1, 4: 0.3, 16: 0.5})
    assert [found.seconds("torch", rows) for rows in (1, 3, 4, 99)] == [0.1, 0.1, 0.3 / 4, 0.5 / 16]
    assert found.speed("openvino") is None
    assert choice_in(tmp_path / "a" / "runtimes", classes=8).speed("torch") is None, "of another model"


def test_another_precision_or_number_of_threads_is_another_file(tmp_path, monkeypatch):
    places = {choice_in(tmp_path).place}
    places.add(Choice(tiny_config(), torch.bfloat16, CPU, tmp_path).place)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    places.add(choice_in(tmp_path).place)
    monkeypatch.setattr(choice_file, "_features", lambda: "fewer")
    places.add(choice_in(tmp_path).place)
    assert len(places) == 4


def changed(**parts):
    """The file's text with other numbers for torch."""

    def change(content):
        content["runtimes"]["torch"] |= parts
        return json.dumps(content)

    return change


def of_another(part):
    def change(content):
        content["for"][part] = "another"
        return json.dumps(content)

    return change


SPOILT = {
    "cut": lambda content: json.dumps(content)[:-9],
    "empty": lambda content: "",
    "of another machine": of_another("machine"),
    "of another processor": of_another("features"),
    "of another version": of_another("version"),
    "of another torch": changed(version="1.0"),
    "negative": changed(seconds={"1": -0.1}),
    "nan": changed(seconds={"1": float("nan")}),
    "nan as a text": changed(seconds={"1": "nan"}),
    "zero": changed(seconds={"1": 0.0}),
    "too fast": changed(seconds={"1": 1e-300}),
    "too slow": changed(seconds={"1": 1e300}),
    "beyond floats": lambda content: json.dumps(content).replace("0.1", "1e999"),
    "huge whole": changed(seconds={"1": 10**400}),
    "to prepare, negative": changed(prepare=-1),
    "to prepare, huge": changed(prepare=1e30),
    "no rows": changed(seconds={"0": 0.1}),
    "fewer than no rows": changed(seconds={"-4": 0.1}),
    "rows that are none": changed(seconds={"four": 0.1}),
    "a list": changed(seconds=[1, 2]),
    "none": changed(seconds=None, prepare=None),
    "no table": lambda content: "[]",
    "a number": lambda content: "3",
    "deep": lambda content: "[" * 10**6,
    "large": lambda content: "\x00\xff" * (5 * 2**20),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_file_that_is_spoilt_is_as_none(tmp_path, how):
    choice = choice_in(tmp_path)
    choice.note("torch", TORCH.prepare, TORCH.seconds)
    content = json.loads(choice.place.read_text())
    choice.place.write_text(SPOILT[how](content), encoding="utf-8")
    found = choice_in(tmp_path)
    assert found.speed("torch") is None
    assert found.seconds("torch", 4) is None
    found.note("torch", OTHER.prepare, OTHER.seconds)
    assert choice_in(tmp_path).speed("torch") == OTHER, "and is replaced"


def test_a_runtime_s_new_version_is_measured_anew_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(OpenVINO, "version", lambda _: "1")
    choice = choice_in(tmp_path)
    choice.note("torch", TORCH.prepare, TORCH.seconds)
    choice.note("openvino", OTHER.prepare, OTHER.seconds)
    monkeypatch.setattr(OpenVINO, "version", lambda _: "2")
    found = choice_in(tmp_path)
    assert (found.speed("torch"), found.speed("openvino")) == (TORCH, None)


def a_folder(folder, monkeypatch):
    choice_in(folder).place.mkdir(parents=True)


def a_file(folder, monkeypatch):
    folder.write_text("no folder")


def read_only(folder, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "denied", "x")

    monkeypatch.setattr(choice_file, "write_text", refused)


@pytest.mark.parametrize("spoil", [a_folder, a_file, read_only])
def test_where_nothing_can_be_kept_it_is_known_here_only(tmp_path, monkeypatch, spoil):
    spoil(tmp_path / "runtimes", monkeypatch)
    choice = choice_in(tmp_path / "runtimes")
    choice.note("torch", TORCH.prepare, TORCH.seconds)
    assert choice.speed("torch") == TORCH
    assert choice_in(tmp_path / "runtimes").speed("torch") is None


def test_several_that_write_at_once_leave_a_whole_file(tmp_path):
    choice_in(tmp_path).note("inductor", OTHER.prepare, OTHER.seconds)

    def work(number):
        for k in range(10):
            choice = choice_in(tmp_path)
            assert choice.speed("inductor") == OTHER, "at all times"
            choice.note("torch", number + 1.0, {k + 1: 1e-3 * (number + 1)})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert choice_in(tmp_path).speed("torch") is not None
    assert len(list(tmp_path.iterdir())) == 1, "no drafts stay"


def test_a_contest_is_the_best_of_three_and_holds_no_images():
    model = small_model()
    images = random_images(5, 80)
    engines = [engine_of(model, (1, 4)) for _ in range(2)]
    expected = engines[0].predict(images)
    times = contest(engines, 4)
    assert len(times) == 2
    assert all(0 < seconds < 60 for seconds in times)
    out = engines[0].predict(images)
    assert all(torch.equal(one, other) for one, other in zip(out, expected, strict=True))


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def frames(model):
    return list(random_images(23, model.config.image_size, seed=8).numpy())


def predictor_of(model, **options):
    return gf.Predictor(model, device="cpu", **{"batch": 4, **options})


def kept(model):
    return Choice(model.config, torch.float32, CPU, cache() / "runtimes")


@pytest.fixture
def known(model, monkeypatch):
    """Engines' runtimes where OpenVINO is known to save 40 ms of 50 an image, and to take 5 s to prepare."""
    asked = pretend(monkeypatch, {})
    monkeypatch.setattr(OpenVINO, "missing", lambda *_: None)  # a contest would be an error
    choice = kept(model)
    choice.note("torch", TORCH.prepare, TORCH.seconds)
    choice.note("openvino", OTHER.prepare, OTHER.seconds)
    return asked


def test_a_short_job_waits_for_no_runtime(model, frames, known):
    predictor = predictor_of(model)
    predictor(frames[0])
    list(predictor.stream(frames))
    predictor.warm_up()
    assert known == ["torch", "torch"], "a batch of one, and one of four"


def test_work_that_pays_goes_straight_to_the_fastest(model, frames, known):
    predictor = predictor_of(model)
    predictor.warm_up(200)
    assert predictor.runtime == "openvino"
    list(predictor.stream(frames))
    assert len(list(predictor_of(model).stream(frames * 9))) == 207
    assert known == ["openvino", "openvino"]


def test_work_that_has_grown_goes_over_without_measuring(model, frames, known):
    predictor = predictor_of(model)
    for _ in range(10):
        list(predictor.stream(frames))
    assert known == ["torch", "openvino"]


def test_cameras_begin_with_the_fastest_that_is_known(model, frames, known):
    for options in ({"mode": "latency"}, {"deadline_ms": 1e6}):
        list(predictor_of(model, **options).stream(frames[:3]))
    assert set(known) == {"openvino"}


def test_a_runtime_that_is_known_and_fails_is_left_with_a_warning(model, frames, known, monkeypatch):
    original = Loop.__init__

    def failing(self, model, *, runtime, **options):
        if runtime == "openvino":
            raise RuntimeError("no room")
        original(self, model, runtime=runtime, **options)

    monkeypatch.setattr(Loop, "__init__", failing)
    for work in (
        lambda: list(predictor_of(model, mode="latency").stream(frames[:3])),
        lambda: predictor_of(model).warm_up(200),
        lambda: predictor_of(model, mode="latency").warm_up(),
    ):
        with pytest.warns(RuntimeWarning, match="openvino failed, going on without: RuntimeError: no room"):
            work()
    assert set(known) == {"torch"}
    with pytest.raises(RuntimeError, match="no room"):
        predictor_of(model, runtime="openvino")(frames[0])


def test_torch_that_fails_is_an_error(model, frames, monkeypatch):
    monkeypatch.setattr(Torch, "encoder", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
    for options in ({}, {"mode": "latency"}):
        with pytest.raises(MemoryError, match="no room"):
            predictor_of(model, **options)(frames[0])


def test_a_slower_runtime_is_measured_once_and_not_taken(model, frames, monkeypatch):
    asked = pretend(monkeypatch, {"torch": 1e-3, "openvino": 4e-3})
    monkeypatch.setattr(OpenVINO, "trial", 1e-9)
    predictor = predictor_of(model)
    for _ in range(2):
        list(predictor.stream(frames))
    assert (asked, predictor.runtime) == (["torch", "openvino"], "torch")
    assert len(predictor._pool._engines) == len(predictor._pool._idle) == 1
    assert kept(model).seconds("openvino", 4) == 1e-3
    list(predictor_of(model).stream(frames))
    assert asked == ["torch", "openvino", "torch"], "the next process does not try again"


def test_a_contest_that_fails_is_a_warning(model, frames, monkeypatch):
    pretend(monkeypatch, {})
    monkeypatch.setattr(Inductor, "trial", 1e-9)
    predictor = predictor_of(model)
    with pytest.warns(RuntimeWarning, match="inductor failed, going on without: KeyError: 'torch'"):
        assert len(list(predictor.stream(frames))) == 23
    assert [engine.runtime for engine in predictor._pool._engines] == ["torch"]
    assert len(predictor._pool._idle) == 1


def test_cameras_measure_in_a_warm_up_only(model, frames, monkeypatch):
    asked = pretend(monkeypatch, {"torch": 4e-3, "openvino": 1e-3})
    monkeypatch.setattr(OpenVINO, "trial", 1e-9)
    predictor = predictor_of(model, mode="latency")
    list(predictor.stream(frames[:3]))
    assert asked == ["torch"]
    predictor.warm_up()
    assert asked == ["torch", "torch", "openvino", "openvino"], "two to compare, and one to keep"
    assert predictor.runtime == "openvino"
    assert [engine.runtime for engine in predictor._pool._engines] == ["openvino"]
    predictor.warm_up()
    list(predictor.stream(frames[:3]))
    other = predictor_of(model, deadline_ms=1e6)
    other.warm_up()
    assert asked[4:] == ["openvino"]


def test_a_runtime_that_is_named_measures_nothing(model, frames, monkeypatch):
    asked = pretend(monkeypatch, {})
    for options in ({}, {"mode": "latency"}):
        predictor = predictor_of(model, runtime="torch", **options)
        predictor.warm_up(10**9)
        list(predictor.stream(frames[:3]))
    assert asked == ["torch", "torch"]
    assert not kept(model).place.exists()


def test_threads_try_runtimes_at_once(model, frames, monkeypatch):
    pretend(monkeypatch, {"torch": 4e-3, "openvino": 1e-3})
    monkeypatch.setattr(OpenVINO, "trial", 1e-9)
    predictor = predictor_of(model)
    alone = [result.class_id for result in predictor_of(model, runtime="torch").stream(frames)]
    with ThreadPoolExecutor(3) as pool:
        for results in pool.map(lambda _: list(predictor.stream(frames)), range(6)):
            assert [result.class_id for result in results] == alone
    assert {engine.runtime for engine in predictor._pool._engines} == {"openvino"}
    assert len(predictor._pool._engines) == len(predictor._pool._idle) <= 3


def test_a_spoilt_file_hurts_no_predictor(model, frames, monkeypatch):
    monkeypatch.setattr(Inductor, "missing", lambda *_: "expected none")
    kept(model).place.parent.mkdir(parents=True)
    kept(model).place.write_bytes(b"{" * 2**20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(predictor_of(model).stream(frames[:3]))) == 3
    assert kept(model).seconds("torch", 1) > 0
