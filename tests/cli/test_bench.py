"""`gfnet-fast bench`: what a row says is so, and no speed is reported of wrong answers."""

import os

import numpy as np
import pytest
import torch
from cli_runner import run, save_by_class

import gfnet_fast as gf
from gfnet_fast.benchmark import FIELDS, BenchmarkError, Options, merge_csv, run_benchmark
from gfnet_fast.engine.eager import EagerEngine
from gfnet_fast.exits import ModelIdentity, calibrate
from gfnet_fast.model.macs import static_macs
from gfnet_fast.tables import read_rows
from gfnet_fast.ways import official
from tests.conftest import expected_exits, random_images, tiny_model

OPTIONS = Options(budgets=2, batch=4, rounds=3, baseline_images=6)
LABELS = torch.arange(24) % 7


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    trace = model.trace(model.normalise(random_images(300, 80, seed=4)))
    confidence, label = trace.logits.softmax(-1).max(-1)
    model.calibration = calibrate(ModelIdentity.of(model), confidence, label == torch.arange(300) % 7)
    model.thresholds = torch.from_numpy(model.calibration.thresholds.copy())
    model.default_row = model.calibration.default_row
    return model


@pytest.fixture(scope="module")
def rows(model):
    return run_benchmark(model, random_images(24, 80, seed=6), LABELS, OPTIONS)


def test_rows_say_what_the_trace_says(model, rows):
    images = random_images(24, 80, seed=6)
    assert {tuple(row) for row in rows} == {FIELDS}
    ways = [row["way"] for row in rows if row["dtype"] == "float32"]
    assert {"engine", "eager", "engine, all steps", "eager, all steps", "official", "static"} == set(ways)
    budgeted = [row for row in rows if row["way"] in ("engine", "eager") and row["dtype"] == "float32"]
    path = model.calibration
    for row in budgeted:
        place = np.interp(float(row["budget_macs"]), path.mean_macs, np.arange(len(path.mean_macs)))
        label, step, _ = expected_exits(model, images, torch.from_numpy(path.at(place)))
        shares = np.bincount(step, minlength=5)[1:] / 24
        assert float(row["agreement"]) == 1
        assert float(row["accuracy"]) == pytest.approx(
            100 * (label == LABELS).float().mean().item(), abs=1e-3
        )
        assert [float(share) for share in row["shares"].split("/")] == pytest.approx(shares, abs=1e-4)
        assert float(row["mean_macs"]) == pytest.approx(shares @ model.config.macs, rel=1e-6)
        assert float(row["mean_steps"]) == pytest.approx(shares @ np.arange(1, 5), abs=1e-4)
    assert sum(bool(row["default"]) for row in budgeted) == 2
    *_, static = (row for row in rows if row["way"] == "static")
    assert (static["mean_macs"], static["ideal"], static["images"]) == (static_macs(model), "", 6)
    last = model.trace(model.normalise(images)).logits[-1].argmax(-1)
    for row in rows:
        if row["way"].endswith("all steps"):
            assert float(row["accuracy"]) == pytest.approx(
                100 * (last == LABELS).float().mean().item(), abs=1e-3
            )
        middle = float(row["p50_ms"])
        assert float(row["p25_ms"]) <= middle <= float(row["p75_ms"])
        assert float(row["images_per_second"]) == pytest.approx(1e3 / middle, rel=1e-2)


def test_no_speed_of_wrong_answers(model, monkeypatch):
    def wrong(self, images, thresholds):
        out = EagerEngine._predict(self, images, thresholds)
        return out._replace(class_id=out.class_id + (out.exit_step == 1))

    monkeypatch.setattr(EagerEngine, "predict", wrong)
    with pytest.raises(BenchmarkError, match=r"eager at .* M .*: expected class and exit step of the trace"):
        run_benchmark(model, random_images(24, 80, seed=6), LABELS, OPTIONS)


def test_the_official_way_is_all_steps_of_the_trace(model):
    images = random_images(10, 80, seed=1)
    classes, exits = official(model, images, 4)()
    assert torch.equal(classes, model.trace(model.normalise(images)).logits[-1].argmax(-1))
    assert exits.tolist() == [4] * 10


def test_a_table_keeps_other_contenders_rows(rows, tmp_path):
    path = tmp_path / "rows.csv"
    merge_csv(path, [{**row, "machine": "another"} for row in rows])
    merge_csv(path, rows)
    assert len(read_rows(path)) == 2 * len(rows)
    merge_csv(path, [{**row, "data": "others"} for row in rows])
    assert len(read_rows(path)) == 3 * len(rows)
    merge_csv(path, [{**row, "accuracy": "1.000"} for row in rows[1:]])  # a later run, of fewer contenders
    table = read_rows(path)
    assert len(table) == 3 * len(rows) - 1
    assert sum(row["accuracy"] == "1.000" for row in table) == len(rows) - 1
    assert path.read_text().splitlines()[0] == ",".join(FIELDS)


def test_the_command_writes_a_table_and_a_page(capsys, model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    save_by_class(tmp_path / "data", random_images(14, 80), [i % 7 for i in range(14)], "abcdefg")
    page, table = tmp_path / "page.html", tmp_path / "rows.csv"
    small = ("--data", tmp_path / "data", "--budgets", 1, "--rounds", 3, "--batch", 4, "--baselines", 4)
    done = run(capsys, "bench", tmp_path / "model", *small, "--html", page, "--csv", table)
    assert done.status == 0, done.err
    assert "x official" in done.out
    assert {row["images"] for row in read_rows(table)} == {"14", "4"}
    assert page.read_text().count("<svg") == 2


def test_what_cannot_be_measured_is_refused(capsys, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    save_by_class(tmp_path / "data", random_images(7, 80), range(7), "abcdefg")
    data = ("--data", tmp_path / "data")
    done = run(capsys, "bench", tmp_path / "model", *data)
    assert (done.status, "make some with `gfnet-fast calibrate`" in done.err) == (1, True), done.err
    done = run(capsys, "bench", tmp_path / "model", *data, "--html", tmp_path / "no" / "page.html")
    assert (done.status, "html: expected a folder that exists" in done.err) == (2, True)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    odd = tmp_path / "odd.csv"
    odd.write_text(",".join(FIELDS) + "\n" + ",".join(["=x"] * len(FIELDS)) + "\n")
    short = tmp_path / "short.csv"
    short.write_text(",".join(FIELDS) + "\n1,2\n")
    os.mkfifo(tmp_path / "pipe.csv")
    page, picture, weights = (
        tmp_path / name for name in ("page.html", "data/a/0000.png", "model/config.json")
    )
    for status, options, message in (
        (1, ("--csv", tmp_path / "other.csv"), "expected a table of model, way"),
        (1, ("--csv", odd), "row 1: budget_macs: expected a number, got '=x'"),
        (1, ("--csv", short), "row 1: expected as many cells as the head has"),
        (1, ("--csv", tmp_path / "pipe.csv"), "expected a table, got expected a regular file, got a pipe"),
        (2, ("--csv", tmp_path), "csv: expected a file to write, got the folder"),
        (2, ("--html", tmp_path), "html: expected a file to write, got the folder"),
        (2, ("--html", page, "--csv", page), "html: expected another file than those that are read"),
        (2, ("--html", picture), "html: expected another file than those that are read"),
        (2, ("--csv", weights), "csv: expected a path outside the model"),
    ):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.[cpj]*") if path.is_file()}
        done = run(capsys, "bench", tmp_path / "model", *data, *options)
        assert (done.status, message in done.err, done.err.count("\n")) == (status, True, 1), done.err
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.[cpj]*") if path.is_file()} == before
    with pytest.raises(gf.BudgetError, match="expected thresholds and their mean costs"):
        run_benchmark(tiny_model(), random_images(4, 80), LABELS[:4])
