"""The simulation where the answer is known, and the claims it is there to support."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gfnet_fast._scheduler import (
    Arrivals,
    Load,
    Machine,
    Mode,
    capacity_without_waits,
    simulate,
    simulate_per_batch,
)
from gfnet_fast.engine.simulation import affine_costs, geometric_exits, main, saturated_rate

COSTS = affine_costs([1, 8, 32, 128, 512], fixed=20e-6, per_image=2e-6)
EXITS = geometric_exits(5, 1.84)
GPU = Machine(sync=60e-6, issue=5e-6)


def merged(load, machine=GPU, **options):
    return simulate(load, machine, COSTS, **{"capacity": capacity_without_waits(COSTS), **options})


def test_geometric_exits_have_the_mean_that_was_asked_for():
    for steps, passes in [(5, 1.0), (5, 1.84), (5, 3.0), (4, 3.9), (5, 5.0), (1, 1.0)]:
        shares = geometric_exits(steps, passes)
        assert sum(shares) == pytest.approx(1)
        assert np.dot(shares, np.arange(1, steps + 1)) == pytest.approx(passes, abs=1e-6)
    with pytest.raises(ValueError, match="mean passes"):
        geometric_exits(3, 3.5)


def test_time_by_hand():
    # 1024 images that all leave at the glance: two launches of 512 back to back, then the last outcome.
    report = merged(Load(1024, [1.0]), Machine(sync=60e-6, issue=0.0))
    assert report.launches == 2
    assert report.makespan == pytest.approx(2 * (20e-6 + 512 * 2e-6) + 60e-6)
    # A batch at a time through two steps: every launch is followed by a wait.
    report = simulate_per_batch(Load(1024, [0.0, 1.0]), Machine(sync=60e-6), COSTS, batch=512)
    assert report.makespan == pytest.approx(4 * (20e-6 + 512 * 2e-6 + 60e-6))
    assert (report.images, report.passes, report.padded_rows) == (1024, 2048, 0)


@pytest.mark.parametrize(
    "arrivals", [Arrivals.AT_ONCE, Arrivals.POISSON, Arrivals.BURSTS], ids=lambda a: a.name
)
@pytest.mark.parametrize("mode", [Mode.THROUGHPUT, Mode.LATENCY, Mode.DEADLINE], ids=lambda m: m.name)
@pytest.mark.parametrize("devices", [1, 3])
def test_every_image_is_answered_once(arrivals, mode, devices):
    load = Load(20_000, EXITS, arrivals=arrivals, rate=1e5, burst=300, allowed=10.0)
    report = merged(load, Machine(devices=devices, sync=60e-6, issue=5e-6), mode=mode, linger=1e-3)
    assert report.images == 20_000
    assert report.unanswered == 0
    assert report.passes / report.images == pytest.approx(1.84, abs=0.03)
    assert 0 < report.share_of_ideal <= report.occupancy <= 1
    assert report.p50 <= report.p99 <= report.worst


def test_merging_needs_no_sync_and_no_padding():
    load = Load(1_000_000, EXITS)
    report = merged(load)
    assert report.share_of_ideal > 0.995
    assert report.padding < 0.001
    assert report.waits < 50  # all of them in the drain
    shares = [simulate_per_batch(load, GPU, COSTS, batch=batch).share_of_ideal for batch in (32, 128, 512)]
    assert shares == sorted(shares)
    assert shares[-1] < 0.85


def test_overlapping_batches_hide_their_syncs_in_part():
    load = Load(200_000, EXITS)
    one, two = (simulate_per_batch(load, GPU, COSTS, batch=128, overlap=n) for n in (1, 2))
    assert one.share_of_ideal < two.share_of_ideal < merged(load).share_of_ideal


def test_devices_share_the_load():
    one, four = (merged(Load(400_000, EXITS), Machine(devices=n, sync=60e-6, issue=5e-6)) for n in (1, 4))
    assert four.throughput == pytest.approx(4 * one.throughput, rel=0.02)


def test_an_open_stream_keeps_up_and_answers_quickly():
    rate = 0.8 * saturated_rate(COSTS, EXITS, 1)
    load = Load(300_000, EXITS, arrivals=Arrivals.POISSON, rate=rate)
    busy = merged(load)
    assert busy.throughput == pytest.approx(rate, rel=0.02)
    quiet = Load(100_000, EXITS, arrivals=Arrivals.POISSON, rate=0.2 * rate)
    assert merged(quiet, mode=Mode.LATENCY).p99 < merged(quiet).p99


def test_deadlines_hold_under_overload():
    load = Load(
        100_000, EXITS, arrivals=Arrivals.POISSON, rate=1.5 * saturated_rate(COSTS, EXITS, 1), allowed=0.01
    )
    report = merged(load, mode=Mode.DEADLINE, capacity=8192)
    assert report.images == 100_000
    assert report.worst <= 0.01 + 2 * 5e-6  # the host may be issuing a launch when a time comes
    assert report.passes / report.images < 1.8  # paid for with steps, not with answers
    assert report.unanswered / report.images < 0.01


def test_the_same_seed_gives_the_same_report():
    load = Load(20_000, EXITS, arrivals=Arrivals.POISSON, rate=1e5, seed=7)
    assert merged(load).makespan == merged(load).makespan


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(ValueError, match="sum to one"):
        merged(Load(10, [0.5, 0.4]))
    with pytest.raises(ValueError, match="rate"):
        merged(Load(10, EXITS, arrivals=Arrivals.POISSON))
    with pytest.raises(ValueError, match="devices: expected 1 to 256, got 0"):
        merged(Load(10, EXITS), Machine(devices=0))


def test_command_line(tmp_path, capsys):
    costs = tmp_path / "costs.json"
    costs.write_text(json.dumps({"glance": [[8, 1e-4], [64, 3e-4]], "focus": [[64, 2e-4]]}))
    assert main(["--images", "2e4", "--costs", str(costs), "--batches", "64", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["way"] for row in rows] == ["merged, throughput", "per batch of 64"]
    assert rows[0]["images/s"] > rows[1]["images/s"]
    assert main(["--images", "10", "--passes", "9"]) == 2
    assert main(["--costs", str(tmp_path / "none.json")]) == 2


def test_the_simulation_starts_without_torch():
    code = (
        "import sys; import gfnet_fast.engine.simulation as s; s.main(['--images', '1e4']);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
