"""`gfnet-fast report`: one page of its own, with the rows' numbers."""

import importlib.util
import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_runner import run

from gfnet_fast.benchmark import FIELDS, merge_csv
from gfnet_fast.errors import InputError
from gfnet_fast.files import MAX_JSON
from gfnet_fast.report import ReportError, draw_report, read_rows, read_run
from gfnet_fast.report.page import breakable
from gfnet_fast.report.rows import BENCH

DIGITS = Path(__file__).parents[2] / "gfnet_fast" / "assets" / "digits"
METRICS = DIGITS / "metrics.jsonl"

BENCH_HEAD = ",".join(BENCH) + "\n"


def row(way, /, budget="", accuracy=80.0, speed=100.0, macs=2e6, **more):
    values = {
        "model": "m <1>", "way": way, "budget_macs": budget, "dtype": "float32", "runtime": "torch",
        "batch": 16, "images": 500, "machine": "cpu: test", "accuracy": accuracy, "mean_macs": macs,
        "shares": "0.5/0.3/0.2", "images_per_second": speed, "p25_ms": 9, "p50_ms": 10, "p75_ms": 11,
        "mean_steps": 1.7, "ideal": 0.5, "accuracy_low": accuracy - 1, "accuracy_high": accuracy + 1,
    }  # fmt: skip
    return {**dict.fromkeys(FIELDS, ""), **values, **more}


ROWS = [
    row("engine", "1000000", 71.25, 314.0, 1e6),
    row("engine", "2000000", 78.5, 217.0, 2e6, default="yes"),
    row("eager", "2000000", 78.5, 180.0, 2e6, default="yes", runtime="plain"),
    row("engine", "2000000", 77.5, 434.0, 2e6, default="yes", dtype="bfloat16"),
    row("engine, all steps", "", 79, 120.0, 4e6),
    row("official", "", 79, 31.0, 4e6, runtime="plain"),
    row("static", "", 12, 20.0, 9e6, mean_steps="", ideal=""),
]


def charts(page):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S)]


def words(chart):
    return " ".join("".join(text.itertext()) for text in chart.iter("{http://www.w3.org/2000/svg}text"))


def bars(page):
    """The bars that the page draws itself: (name, widths of its parts, figures)."""
    found = []
    for item in re.findall(r"<li><span.*?</li>", page, re.S):
        name, value = (re.search(f'class="{kind}">(.*?)</span>', item)[1] for kind in ("name", "value"))
        found.append((name, [float(width) for width in re.findall(r"width:([0-9.]+)%", item)], value))
    return found


def test_a_page_of_its_own_with_the_rows_numbers():
    page = draw_report(ROWS)
    assert not re.search(r"<script|<link|<img|@import|(src|href)=\"(?!#)|url\((?!#)", page)
    assert "m &lt;1&gt;" in page
    for number in ("71.25 (70.2 to 72.2)", "9.000 / 10.000 / 11.000", ">2.00 *</td>"):
        assert number in page
    curve, speed = map(words, charts(page))
    assert "engine (torch)" in curve
    assert "cost only" in speed
    assert bars(page) == [
        ("1.00", [50, 30, 20], "50 / 30 / 20"),
        ("2.00 *", [50, 30, 20], "50 / 30 / 20"),
        ("the official way: all steps, crop by crop", [7.14], "31, 1.00 x, 79.0 %"),
        ("images leave, batch by batch", [41.47], "180, 5.81 x, 78.5 %"),
        ("steps share full batches, batch norms folded", [50.0], "217, 7.00 x, 78.5 %"),
        ("in bfloat16, torch", [100.0], "434, 14.00 x, 77.5 %"),
        ("static: the backbone on the full image", [4.61], "20, 0.65 x"),
    ]


def test_a_page_s_colours_are_those_of_its_style_in_the_light_and_in_the_dark():
    """A chart with a colour of its own would be dark on dark; a variable without a value would be black."""
    page = draw_report(ROWS, [read_run(DIGITS)])
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.S))
    assert not re.search(r"(fill|stroke): ?#", drawn)
    used = {"--part"} ^ set(re.findall(r"var\((--[a-z0-9-]+)\)", page))
    light, dark = re.findall(r":root \{(.*?)\}", page, re.S)[:2]
    assert used <= set(re.findall(r"(--[a-z0-9-]+):", light))
    assert set(re.findall(r"(--[a-z0-9-]+):", light)) == set(re.findall(r"(--[a-z0-9-]+):", dark))


def test_each_model_and_machine_has_its_own_charts():
    page = draw_report([*ROWS, *(dict(one, machine="cuda: test") for one in ROWS)])
    assert len(charts(page)) == 4
    named = {}
    for chart in charts(page):
        for element in chart.iter():
            if "id" in element.attrib and element.tag.endswith("clipPath"):
                named.setdefault(element.get("id"), set()).add(ElementTree.tostring(element[0]))
    assert named
    assert all(len(shapes) == 1 for shapes in named.values())  # an id of the page means one thing


def test_budgets_that_look_alike_have_a_bar_each():
    alike = [row("engine", str(macs), macs=macs) for macs in (6_710_000, 6_712_000, 6_740_000)]
    assert [name for name, *_ in bars(draw_report(alike))][:3] == ["6.71", "6.71", "6.74"]


def test_training_metrics_have_curves(capsys, tmp_path):
    out = tmp_path / "page.html"
    done = run(capsys, "report", METRICS, "-o", out)
    assert (done.status, done.out) == (0, ""), done.err
    text = out.read_text()
    loss, accuracy, reward = map(words, charts(text))
    assert "0 (windows), 0 (thumbnails), 1 (classifier, random crops), 2 (policy)," in text
    assert "minutes of training" in loss
    assert [f"step {step}" in accuracy for step in (1, 4, 5)] == [True, True, False]
    assert [f"step {step}" in reward for step in (1, 2, 4)] == [False, True, True]


def test_rows_from_a_table_and_from_lines(capsys, tmp_path):
    table, lines = tmp_path / "rows.csv", tmp_path / "rows.jsonl"
    merge_csv(table, ROWS)
    lines.write_text("".join(json.dumps(dict(one, model="other")) + "\n" for one in ROWS))
    done = run(capsys, "report", table, lines, METRICS, "-o", tmp_path / "page.html")
    assert done.status == 0, done.err
    text = (tmp_path / "page.html").read_text()
    assert len(charts(text)) == 2 + 2 + 3
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.txt", "", "expected a .csv or .jsonl file, got .txt"),
        ("rows.csv", "a,b\n1,2\n", "row 1: expected columns"),
        ("rows.jsonl", "{", "expected a JSON object a line"),
        ("rows.jsonl", "[1]\n", "row 1: expected columns"),
        ("rows.jsonl", "", "expected rows, got none"),
        (
            "rows.jsonl",
            '{"stage": 1, "epoch": NaN}',
            "expected a JSON object a line, got NaN is not a number",
        ),
        (
            "rows.jsonl",
            '{"stage": 1, "epoch": 1e999}',
            "a JSON object a line, got 1e999 is more than a number",
        ),
        (
            "rows.jsonl",
            '{"stage": 1, "epoch": 1' + 400 * "0" + "}",
            "epoch: expected a number from .*, got 1000",
        ),
        ("rows.jsonl", '{"stage": [], "epoch": 0}', r"stage: expected a number from .*, got \[\]"),
        (
            "rows.jsonl",
            '{"stage": 1, "epoch": 0, "loss": "low"}',
            "loss: expected a number from .*, got 'low'",
        ),
        (
            "rows.jsonl",
            '{"stage": 1, "epoch": 0, "loss": [1, {}]}',
            "loss: expected a number from .*, got {}",
        ),
        ("rows.jsonl", '{"stage": 1, "epoch": 0, "loss": []}', "loss: expected 1 to 100 numbers, got 0"),
        ("rows.jsonl", '{"stage": 1, "epoch": 0, "x": ' + 9999 * "[", "nested too deeply"),
        ("rows.jsonl", "x" * (MAX_JSON + 1), f"expected at most {MAX_JSON} bytes, got {MAX_JSON + 1}"),
        ("rows.csv", "x" * (MAX_JSON + 1), f"expected at most {MAX_JSON} bytes, got {MAX_JSON + 1}"),
        (
            "rows.csv",
            BENCH_HEAD + "m,engine,1,2,nan\n",
            "row 1: accuracy: expected a number from .*, got 'nan'",
        ),
        ("rows.csv", BENCH_HEAD + "m,engine,,2,3\n", "row 1: images_per_second: expected a number"),
        ("rows.csv", BENCH_HEAD + "m,engine,1,2\n", "row 1: expected as many cells as the head has"),
        ("rows.csv", BENCH_HEAD + "m,engine,1,2,3,4\n", "row 1: expected as many cells as the head has"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_files_without_rows_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / name)
    with pytest.raises(InputError, match=r"\.txt|a file, got none of that name"):
        read_rows(tmp_path / f"absent-{name}")


def test_what_is_no_file_names_itself_at_once(tmp_path):
    for name in ("rows.csv", "rows.jsonl"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match=f"{name}: expected .* got a pipe"):
            read_rows(tmp_path / name)


def test_names_are_text_on_a_page(capsys, tmp_path):
    """Of whatever kind: markup of HTML, formulas for a typesetter, what does not print."""
    script = "<script>alert(1)</script>"
    names = {
        "way": "engine $\\frac{",
        "machine": "\u202e\ud800</p>",
        "data": '"><img src=x>',
        "runtime": "<b>",
    }
    rows = [row("official"), row("engine", "1", model=script, **names), row("static", model=script, **names)]
    metrics = {"stage": 0, "epoch": 0, "what": script, "loss": [1, 2]}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*rows, metrics]))
    done = run(capsys, "report", tmp_path / "rows.jsonl", "-o", tmp_path / "page.html")
    assert done.status == 0, done.err
    page = (tmp_path / "page.html").read_text("utf-8")
    assert not re.search(r"<script|<img|<b>|</p></p>", page)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert r"\u202e\ud800&lt;/p&gt;" in page
    assert any(r"engine $\frac{" in words(chart) for chart in charts(page))


def test_more_sections_than_anybody_reads():
    with pytest.raises(InputError, match=r"rows: expected at most 100 models, .*, got 101"):
        draw_report([row("engine", model=str(number)) for number in range(101)])


def test_a_run_s_folder_says_what_was_trained_and_what_came_out(capsys, tmp_path):
    done = run(capsys, "report", DIGITS, "-o", tmp_path / "page.html")
    assert (done.status, done.out) == (0, ""), done.err
    page = (tmp_path / "page.html").read_text()
    assert len(charts(page)) == 4
    for text in (
        "Training: digits",
        "timm/resnet18",
        "4 of 32 x 32 px, on 192 px",
        "10: 0, 1, 2, 3, 4, 5, 6, 7",
        "<dt>backbone_lr</dt><dd>0.02</dd>",
        "83.4 %",
        "82.2 to 84.5",
        ">81.1 (79.9 to 82.3)<",
    ):
        assert text in page, text
    assert bars(page)[1] == ("step 2", [34.67], "34.7 %, of them 99.0 % right")
    by_policy = words(charts(page)[-1])
    assert [name in by_policy for name in ("learned", "random", "oracle")] == [True] * 3


def some_run(folder, *rows, **files):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


EPOCHS = [
    {"stage": 1, "epoch": 0, "seconds": 3, "loss": 2.0, "accuracy": [0.5, 0.6], "heldout": [0.4, 0.5]},
    {"stage": 1, "epoch": 1, "seconds": 6, "loss": 1.5, "accuracy": [0.6, 0.7], "news": {"of": "later"}},
]


def test_a_run_under_way_and_what_it_says_of_held_out_images(tmp_path):
    settings = {"model": {"backbone": "<b>", "image_size": [64, 48], "patch_size": 32, "steps": 2},
                "training": {"lr": 0.1, "flip": True, "scale": [0.08, 1.0]}, "classes": ["<i>", "b"],
                "train": {"images": 70}, "init": None}  # fmt: skip
    page = draw_report(runs=[read_run(some_run(tmp_path / "run", *EPOCHS, training=settings))])
    assert len(charts(page)) == 2
    assert "held out" in words(charts(page)[1])
    assert "seconds of training" in words(charts(page)[0])
    for text in (
        "No evaluation",
        "&lt;b&gt;",
        "&lt;i&gt;",
        "on 64 x 48 px",
        "<dd>0.08, 1</dd>",
        "<dd>true</dd>",
    ):
        assert text in page, text
    timeless = [{name: value for name, value in one.items() if name != "seconds"} for one in EPOCHS]
    page = draw_report(runs=[read_run(some_run(tmp_path / "run", *timeless))])
    assert "epochs of training" in words(charts(page)[0])


STEP = {"accuracy": 0.5, "interval": [0.4, 0.6]}
EXITS = {**STEP, "shares": [0.5, 0.5], "accuracies": [1.0, None], "mean_steps": 1.5, "mean_macs": 2e6}


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ("{", "expected a JSON object, got"),
        ("[]", r"expected a JSON object, got \[\]"),
        ({"policies": []}, r"policies: expected at most 20 by name, got \[\]"),
        ({"policies": {"learned": []}}, "accuracy: expected 1 to 100 numbers, got 0"),
        ({"policies": {"learned": [1]}}, r"'learned': expected a table a step, got \[1\]"),
        (
            {"policies": {"learned": [{**STEP, "accuracy": "x"}]}},
            r"accuracy: expected numbers, got \['x'\]",
        ),
        (
            {"policies": {"learned": [{**STEP, "interval": [0.7, 0.8]}]}},
            "interval: expected two ends around 0.5",
        ),
        ({"exits": {**EXITS, "accuracy": "0.5"}}, r"exits: expected numbers, got \['0.5', 1.5"),
        ({"exits": {**EXITS, "mean_macs": None}}, "exits: expected a number from .*, got None"),
        ({"exits": {**EXITS, "accuracies": [1.0]}}, r"accuracies: expected 2, as the shares, got \[1.0\]"),
        ({"exits": {**EXITS, "shares": 3}}, "shares: expected 1 to 100 numbers, got 3"),
    ],
    ids=str,
)
def test_an_evaluation_that_cannot_be_drawn(tmp_path, evaluation, message):
    with pytest.raises(InputError, match=f"evaluation.json: {message}"):
        read_run(some_run(tmp_path / "run", *EPOCHS, evaluation=evaluation))


def test_a_report_is_not_written_over_the_run_that_it_is_of(capsys, tmp_path):
    folder = some_run(tmp_path / "run", *EPOCHS)
    before = (folder / "metrics.jsonl").read_bytes()
    done = run(capsys, "report", folder, "-o", folder / "metrics.jsonl")
    assert (done.status, "expected another file than those that are read" in done.err) == (2, True)
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert run(capsys, "report", folder, "-o", folder / "page.html").status == 0
    done = run(capsys, "report", tmp_path)
    assert (done.status, "which has a metrics.jsonl, got one without" in done.err) == (1, True)
    (folder / "metrics.jsonl").write_text(json.dumps(ROWS[0]))
    done = run(capsys, "report", folder, "-o", tmp_path / "page.html")
    assert (done.status, "expected rows of training, got those of a benchmark" in done.err) == (1, True)


def test_names_break_after_signs_and_where_nothing_else_helps():
    assert breakable("glass/clear-1.jpg") == "glass/<wbr>clear-<wbr>1.<wbr>jpg"
    assert breakable("a<b" + 30 * "x") == "a&lt;b" + 13 * "x" + "<wbr>" + 16 * "x" + "<wbr>x"
    assert breakable("") == ""


def test_a_table_that_is_no_text_and_a_page_that_is_a_folder(capsys, tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\xff\xfe\x00")
    done = run(capsys, "report", tmp_path / "rows.csv")
    assert (done.status, "expected a table, got" in done.err) == (1, True), done.err
    done = run(capsys, "report", METRICS, "-o", tmp_path)
    assert (done.status, "expected a file to write, got the folder" in done.err) == (2, True), done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv"]


def test_numbers_that_are_none_and_no_matplotlib(monkeypatch):
    with pytest.raises(InputError, match=r"row 1: accuracy: expected a number from .*, got 'much'"):
        draw_report([{**ROWS[0], "accuracy": "much"}])
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    with pytest.raises(ReportError, match=r"pip install 'gfnet-fast\[report\]'\), got no matplotlib"):
        draw_report(ROWS)
