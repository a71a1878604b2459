"""`gfnet-fast eval`: the numbers are those of the trace, and what a checkpoint states stands beside them."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
import torch
from cli_runner import run, save_by_class
from PIL import Image

import gfnet_fast as gf
from gfnet_fast.checkpoints import official_checkpoint
from gfnet_fast.data.labelled import LabelledFolder
from gfnet_fast.evaluation import Steps
from gfnet_fast.exits import evaluate_budgets
from gfnet_fast.model.gfnet import GFNet
from gfnet_fast.outcome import figures, outcome
from gfnet_fast.report import draw_evaluation
from gfnet_fast.report.evaluation import Evaluation
from tests.conftest import expected_exits, random_images, tiny_model

NAMES = [f"n{number:02}" for number in range(7)]
COUNT = 28


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    save_by_class(folder, random_images(COUNT, 224, seed=8), [i % 7 for i in range(COUNT)], NAMES)
    return folder


@pytest.fixture(scope="module")
def official(tmp_path_factory, folder):
    """An official file whose stated figures are those of these images."""
    torch.manual_seed(0)
    model = GFNet(gf.released("mobilenetv3_large_100", 96).replace(classes=7)).eval()
    for tensor in (model.global_encoder.backbone.classifier.weight, model.classifier.fc_2.weight):
        tensor.data *= 40
    data = LabelledFolder(folder, model.config)
    probabilities = torch.cat(
        [model.trace(model.normalise(data.images([row]))).logits.softmax(-1) for row in range(COUNT)], 1
    )
    row = torch.linspace(0.16, 0.6, 39)
    model.thresholds = torch.stack([row, row, torch.full((39,), -1e8)], 1)
    curve = evaluate_budgets(probabilities, data.labels, model.thresholds, model.config.macs)
    assert len(set(curve.mean_cost)) > 10
    right = (probabilities.argmax(-1) == data.labels).float().mean(1)
    content = official_checkpoint(model)
    content["anytime_classification"] = (100 * right).tolist()
    content["budgeted_batch_classification"] = [curve.mean_cost.tolist(), curve.accuracy.tolist()]
    path = tmp_path_factory.mktemp("official") / "model.pth.tar"
    torch.save(content, path)
    return path


def test_the_figures_of_an_official_file_are_found_again(capsys, official, folder):
    done = run(capsys, "eval", official, "--data", folder, "-f", "json", "--check", 1e-3)
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["images"] == COUNT
    rows = [row for row in facts["budgeted"] if row["stated"] is not None]
    assert len(rows) == 39
    assert [row["stated"] for row in facts["anytime"]] == pytest.approx(
        [row["accuracy"] for row in facts["anytime"]], abs=1e-4
    )
    for row in rows:
        assert row["macs"] == pytest.approx(row["stated_macs"], rel=1e-6)
    done = run(capsys, "eval", official, "--data", folder)
    assert "at most 0.00 percent points off" in done.out


def test_figures_that_are_not_found_fail_the_check(capsys, official, folder, tmp_path):
    content = torch.load(official, weights_only=True)
    content["anytime_classification"][1] += 2.5
    content["budgeted_batch_classification"][1][1] -= 3.5
    path = tmp_path / "other.pth.tar"
    torch.save(content, path)
    for limit, count in ((2, 2), (3, 1)):
        done = run(capsys, "eval", path, "--data", folder, "--check", limit, "--images", 100)
        assert (done.status, f"got {count} of 42 farther off" in done.err) == (1, True), done.err


def test_a_native_model_s_rows_are_those_of_the_trace(capsys, tmp_path):
    model = tiny_model()
    model.thresholds = torch.tensor([[0.3, 0.35, 0.3, -1e8], [0.6, 0.5, 0.5, -1e8]])
    model.save_pretrained(tmp_path / "model")
    save_by_class(tmp_path / "data", random_images(14, 80, seed=2), [i % 7 for i in range(14)], NAMES)
    data = LabelledFolder(tmp_path / "data", model.config)
    images = data.images(range(14))
    done = run(capsys, "eval", tmp_path / "model", "--data", tmp_path / "data", "-f", "json")
    facts = json.loads(done.out)
    for found, row in zip(facts["budgeted"], model.thresholds, strict=True):
        label, step, _ = expected_exits(model, images, row)
        assert found["accuracy"] == pytest.approx(100 * (label == data.labels).float().mean().item())
        assert found["shares"] == pytest.approx([(step == k).float().mean().item() for k in range(1, 5)])
        assert found["macs"] == pytest.approx(np.mean([model.config.macs[k - 1] for k in step]), rel=1e-6)
        assert found["stated"] is None
    done = run(capsys, "eval", tmp_path / "model", "--data", tmp_path / "data", "--check", 50)
    assert (done.status, "got a model that states none" in done.err) == (1, True)
    (tmp_path / "model" / "thresholds.json").unlink()
    done = run(capsys, "eval", tmp_path / "model", "--data", tmp_path / "data")
    assert "make some with `gfnet-fast calibrate`" in done.out


ODD = ["=1+1", "<script>", "n\u202ex", "b", "c", "d", "{{ 7 * 7 }}"]


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A model with thresholds whose classes have odd names, and images in folders of them."""
    place = tmp_path_factory.mktemp("native")
    model = tiny_model()
    model.thresholds = torch.tensor([[0.4, 0.4, 0.4, -1e8]])
    model.labels = tuple(ODD)
    model.save_pretrained(place / "model")
    save_by_class(place / "data", random_images(14, 80, seed=2), [i % 7 for i in range(14)], ODD)
    data = LabelledFolder(place / "data", model.config, model.labels)
    label, step, origins = expected_exits(model, data.images(range(14)), model.thresholds[0])
    return place, data, label, step, origins


def test_classes_confusions_and_wrong_images_are_those_of_the_exits(capsys, native, tmp_path):
    place, data, label, step, _ = native
    table = tmp_path / "wrong.csv"
    done = run(capsys, "eval", place / "model", "--data", place / "data", "-f", "json", "--wrong", table)
    assert (done.status, done.err.splitlines()[1:]) == (0, [f"wrote {table}"])
    facts = json.loads(done.out)
    right = (label == data.labels).numpy()
    assert 0 < right.sum() < 14
    assert facts["default"]["accuracy"] == pytest.approx(100 * right.mean())
    assert facts["default"]["mean_steps"] == pytest.approx(step.float().mean().item())
    by_name = {row["class"]: row for row in facts["classes"]}
    for number, name in enumerate(ODD):
        mine, said = (data.labels == number).numpy(), (label == number).numpy()
        if mine.any() or said.any():
            row = by_name[name]
            assert (row["images"], row["right"], row["said"]) == (
                mine.sum(),
                (right & mine).sum(),
                said.sum(),
            )
            assert row["recall"] == pytest.approx(100 * right[mine].mean())
    assert sum(row["images"] for row in facts["confusions"]) == (~right).sum() == facts["default"]["wrong"]
    told = {row["path"]: row for row in facts["mistakes"]}
    assert set(told) == {str(path) for path, fine in zip(data.paths, right, strict=True) if not fine}
    for row, path in enumerate(map(str, data.paths)):
        if not right[row]:
            expected = [ODD[data.labels[row]], ODD[label[row]], step[row].item(), row]
            assert [told[path][k] for k in ("truth", "prediction", "exit_step", "image")] == expected
    levels = [row["confidence"] for row in facts["mistakes"]]
    assert levels == sorted(levels, reverse=True)
    with table.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["path"] for row in written] == [row["path"] for row in facts["mistakes"]]
    formulas = [row["truth"] for row in facts["mistakes"]].count("=1+1")
    assert formulas
    assert [row["truth"] for row in written].count("'=1+1") == formulas  # no spreadsheet takes it for one


def test_the_table_in_a_terminal_has_a_matrix_of_the_classes(capsys, native):
    place, data, label, *_ = native
    done = run(capsys, "eval", place / "model", "--data", place / "data")
    rows = {
        line.split()[0]: line.split()
        for line in done.out.split("is, by answer")[1].splitlines()
        if line.strip()
    }
    counts = [int((label[data.labels == 3] == number).sum()) for number in range(7)]
    assert rows["b"][1:] == [str(count) if count else "." for count in counts]
    assert r"n\u202ex" in done.out


def test_a_page_shows_the_wrong_images_and_where_the_network_looked(capsys, native, tmp_path):
    place, data, label, step, origins = native
    page = tmp_path / "page.html"
    done = run(capsys, "eval", place / "model", "--data", place / "data", "--html", page)
    assert (done.status, done.err.splitlines()[1:]) == (0, [f"wrote {page}"])
    text = page.read_text()
    assert not re.search("<script|<link|<img|@import", text)
    assert "{{ 7 * 7 }}" in text
    assert not re.search(r'(src|href)="(?!#|data:image/jpeg;base64,)', text)
    assert "&lt;script&gt;" in text
    assert r"n\u202ex" in text
    shown = re.findall(r"<figure>\n<svg.*?</figure>", text, re.S)
    assert len(shown) == (label != data.labels).sum()
    for figure in shown:
        picture = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]*)", figure)[1])))
        assert (picture.format, picture.size) == ("JPEG", (80, 80))
        file = re.search("<small>(.*?)</small>", figure)[1].replace("<wbr>", "")
        row = next(row for row, path in enumerate(data.paths) if file.endswith(path.name))
        boxes = re.findall(r'<rect x="([0-9]+)" y="([0-9]+)"', figure)
        assert [(int(y), int(x)) for x, y in boxes] == [
            tuple(o) for o in origins[row, : step[row] - 1].tolist()
        ]


def test_digits_have_no_paths(capsys, tmp_path):
    table, page = tmp_path / "wrong.csv", tmp_path / "page.html"
    small = ("eval", "digits", "--data", "digits", "--images", 30, "-q", "--wrong", table, "--html", page)
    done = run(capsys, *small, "-f", "json")
    assert (done.status, done.err) == (0, "")
    facts = json.loads(done.out)
    assert facts["mistakes"]
    assert {row["path"] for row in facts["mistakes"]} == {None}
    assert all(line.startswith(",") for line in table.read_text().splitlines()[1:])
    assert page.read_text().count("data:image/jpeg") == len(facts["mistakes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--wrong", "page", "--html", "page"), "wrong: expected another file than those that are read"),
        (("--html", "data/b/0003.png"), "html: expected another file than those that are read"),
        (("--wrong", "model/config.json"), "wrong: expected a path outside the model"),
        (("--wrong", "absent/wrong.csv"), "wrong: expected a folder that exists to write into"),
    ],
)
def test_what_is_read_is_not_written_over(capsys, native, options, message):
    place = native[0]
    given = [place / option if "--" not in option else option for option in options]
    done = run(capsys, "eval", place / "model", "--data", place / "data", *given)
    assert (done.status, message in done.err, done.err.count("\n")) == (2, True, 1), done.err
    assert not (place / "page").exists()


class Squares:
    """Images of a data set that is not there any more, but for every other one."""

    classes = ()

    def images(self, rows):
        if rows[0] % 2:
            raise gf.InputError("gone")
        return torch.zeros(1, 300, 600, 3, dtype=torch.uint8)


def thousand(classes=1000, count=5000):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    wrong = (labels + rng.integers(1, 3, (2, count))) % classes
    predictions = np.where(rng.random((2, count)) < 0.8, labels, wrong)
    levels = rng.random((2, count)).astype(np.float32)
    origins = np.zeros((1, count, 2), np.int32)
    found = outcome(Steps(levels, predictions, labels, origins, ""), [0.5, -1e8])
    default = figures(found, [1e6, 2e6])
    step = {"step": 1, "macs": 1e6, "accuracy": 80.0, "interval": [79.0, 81.0], "stated": None}
    facts = {"images": count, "data_hash": "", "budgeted": [], "default": default}
    facts["anytime"] = [step, {**step, "step": 2, "macs": 2e6}]
    names = [f"{number:04}_" + "long" * 30 for number in range(classes)]
    return Evaluation("m", "d", facts, found, names, 96, Squares(), range(count), None)


def test_a_thousand_classes_fit_a_page():
    page = draw_evaluation(thousand())
    assert len(page) < 400_000
    for text in ("The worst 30 of 1000", "The largest 30 of", "The most confident 36 of", "none of these"):
        assert text in page, text
    assert 6 <= len(re.findall(r'<th scope="col" title=', page)) <= 12
    assert 0 < page.count("cannot be read again") < 36
    listed = page.split("Largest confusions</h3>")[1].split("</table>")[0]
    assert "long" * 2 in listed
    assert "long" * 5 not in listed  # what cannot be broken would make the page wider than a screen
    assert len(draw_evaluation(thousand(classes=20, count=300))) < 400_000


def test_a_page_of_a_model_that_is_always_right():
    every = thousand(classes=5, count=50)
    right = every.found._replace(predictions=every.found.labels)
    facts = {**every.facts, "default": figures(right, [1e6, 2e6])}
    page = draw_evaluation(every._replace(found=right, facts=facts))
    assert "Confusions" not in page
    assert "100.0 %" in page
