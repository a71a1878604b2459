"""What `kernels.py` times: each op at its sizes, its peers, and the check that comes first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import gfnet_kernels as gk
import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Call = Callable[[], object]


@dataclass
class Case:
    """One op at one size: the bytes it has to move, its call, its peers, and the check that comes first."""

    op: str
    size: str
    dtype: torch.dtype
    moved: int
    ours: Call
    peers: dict[str, Call]
    gate: Call


def close(actual: object, expected: object, dtype: torch.dtype) -> None:
    """Raise unless both are near; looser than the tests, for peers that compute in the low precision."""
    loose = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(actual, expected, rtol=loose, atol=loose, equal_nan=True, check_stride=False)


def constants(device: str) -> tuple[Tensor, Tensor]:
    return torch.tensor(MEAN, device=device).view(3, 1, 1), torch.tensor(STD, device=device).view(3, 1, 1)


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def finish(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype, memory_format=torch.channels_last)


def glance_case(
    n: int, side: int, size: int, filter: str, dtype: torch.dtype, device: str, compiled: bool
) -> Case:
    images = torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, device=device)
    slots = torch.arange(n, dtype=torch.int32, device=device)
    mean, std = constants(device)

    def eager() -> Tensor:
        values = normalise(images[slots], mean, std)
        return finish(F.interpolate(values, size=(size, size), mode=filter, align_corners=True), dtype)

    def grid_sample() -> Tensor:
        line = torch.linspace(-1, 1, size, device=device)
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).expand(n, size, size, 2)
        values = normalise(images, mean, std)
        return finish(
            F.grid_sample(values, grid, mode=filter, padding_mode="border", align_corners=True), dtype
        )

    def ours() -> Tensor:
        return gk.glance(images, slots, size, filter, MEAN, STD, dtype)

    peers: dict[str, Call] = {"eager": eager, "grid_sample": grid_sample}
    if compiled:
        peers["compile"] = torch.compile(eager, dynamic=False)

    def gate() -> None:
        close(ours(), gk.glance_reference(images, slots, size, filter, MEAN, STD, dtype), dtype)
        for name, peer in peers.items():
            # grid_sample rounds its coordinates elsewhere: the same job, to a hundredth of the range.
            assert name != "grid_sample" or float((peer() - ours()).abs().max()) < 0.1  # type: ignore[operator]
            if name != "grid_sample":
                close(peer(), ours(), dtype)

    moved = n * 3 * (side * side + size * size * dtype.itemsize)
    return Case("glance", f"{n} x {side} to {size} {filter}", dtype, moved, ours, peers, gate)


def crop_case(n: int, side: int, size: int, dtype: torch.dtype, device: str, compiled: bool) -> Case:
    images = torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, device=device)
    slots = torch.arange(n, dtype=torch.int32, device=device)
    origins = torch.randint(0, side - size + 1, (n, 2), dtype=torch.int32, device=device)
    mean, std = constants(device)

    def eager() -> Tensor:
        places = zip(images, origins.tolist(), strict=True)
        cut = torch.stack([image[y : y + size, x : x + size] for image, (y, x) in places])
        return finish(normalise(cut, mean, std), dtype)

    def official() -> Tensor:
        values = normalise(images, mean, std)
        cut = [
            value[:, int(y) : int(y) + size, int(x) : int(x) + size]
            for value, (y, x) in zip(values, origins, strict=True)
        ]
        return finish(torch.stack(cut), dtype)

    def indexed() -> Tensor:
        line = torch.arange(size, device=device)
        y, x = origins[:, 0, None] + line, origins[:, 1, None] + line
        return finish(normalise(images[slots[:, None, None], y[:, :, None], x[:, None, :]], mean, std), dtype)

    def roi_align() -> Tensor:
        from torchvision.ops import roi_align as align

        corner = origins.flip(1).float()
        boxes = torch.cat([slots[:, None].float(), corner, corner + size], 1)
        values = align(normalise(images, mean, std), boxes, (size, size), sampling_ratio=1, aligned=True)
        return finish(values, dtype)

    def ours() -> Tensor:
        return gk.crop(images, slots, origins, size, MEAN, STD, dtype)

    peers: dict[str, Call] = {
        "eager": eager,
        "official": official,
        "indexed": indexed,
        "roi_align": roi_align,
    }
    if compiled:
        peers["compile"] = torch.compile(indexed, dynamic=False)

    def gate() -> None:
        close(ours(), gk.crop_reference(images, slots, origins, size, MEAN, STD, dtype), dtype)
        for peer in peers.values():
            close(peer(), ours(), dtype)

    moved = n * 3 * size * size * (1 + dtype.itemsize)
    return Case("crop", f"{n} x {size} of {side}", dtype, moved, ours, peers, gate)


def exits_case(n: int, classes: int, dtype: torch.dtype, device: str, compiled: bool) -> Case:
    logits, capacity = (torch.randn(n, classes, device=device) * 4).to(dtype), 2 * n
    slots = torch.randperm(capacity, device=device)[:n].int()
    steps = torch.randint(1, 6, (n,), dtype=torch.int32, device=device)
    thresholds = torch.tensor([0.9, 0.8, 0.7, 0.6, -1e8], device=device).repeat(capacity, 1)
    limits = torch.randint(0, 6, (capacity,), dtype=torch.int32, device=device)
    deadlines = torch.rand(capacity, dtype=torch.float64, device=device)
    now = torch.tensor([0.1], dtype=torch.float64, device=device)

    def ruled(slot: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        confidence, label = logits.softmax(1, dtype=torch.float32).max(1)
        limit, late = limits[slot], deadlines[slot] <= now
        beyond, last = step > limit, step >= limit.clamp(max=5)
        leaves = confidence >= thresholds[slot, step - 1]
        reason = torch.where(leaves, gk.EXITED, torch.where(last, gk.LAST_STEP, gk.STAYS))
        reason = torch.where(late, gk.DEADLINE, reason)
        reason = torch.where(beyond, torch.where(limit == 0, gk.CANCELLED, gk.LAST_STEP), reason)
        return confidence, label.int(), reason.int(), step - (late | beyond).int()

    def eager() -> tuple[Tensor, ...]:
        padded = slots < 0
        results = ruled(slots.clamp(min=0), steps.clamp(min=1))
        fill = (0, -1, gk.STAYS, 0)
        return tuple(part.masked_fill(padded, value) for part, value in zip(results, fill, strict=True))

    def unpadded() -> tuple[Tensor, ...]:
        return ruled(slots, steps)

    def ours() -> tuple[Tensor, ...]:
        return gk.exits(logits, slots, steps, thresholds, limits, deadlines, now)

    peers: dict[str, Call] = {"eager": eager, "unpadded": unpadded}
    if compiled:
        peers["compile"] = torch.compile(eager, dynamic=False)

    def gate() -> None:
        expected = gk.exits_reference(logits, slots, steps, thresholds, limits, deadlines, now)
        for contender in (ours, *peers.values()):
            actual = cast(tuple[Tensor, ...], contender())
            close(actual[0], expected[0], torch.float32)
            sure = (expected[0] - thresholds[slots, steps - 1]).abs() > 1e-3
            for one, other in zip(actual[2:], expected[2:], strict=True):
                assert one[sure].equal(other[sure])

    moved = n * classes * dtype.itemsize + n * (8 + 16 + 16)
    return Case("exits", f"{n} x {classes}", dtype, moved, ours, peers, gate)


def take_case(n: int, device: str, compiled: bool) -> Case:
    places = 4 * n
    ring = torch.randperm(places, device=device).int()
    counters = torch.tensor([7 * places - n // 2, 7 * places + n], device=device)  # over the ring's end
    count = torch.tensor([n - 1], dtype=torch.int32, device=device)
    taken = torch.randint(0, 5, (places,), dtype=torch.int32, device=device)

    def eager() -> tuple[Tensor, Tensor]:
        row = torch.arange(n, device=device)
        live = row < torch.minimum(count[0], counters[1] - counters[0])
        slots = torch.where(live, ring[(counters[0] + row) % places], -1)
        return slots, torch.where(live, taken[slots] + 1, 0)

    def ours() -> tuple[Tensor, Tensor]:
        return gk.take(ring, counters, count, taken, n)

    peers: dict[str, Call] = {"eager": eager}
    if compiled:
        peers["compile"] = torch.compile(eager, dynamic=False)

    def gate() -> None:
        expected = gk.take_reference(ring, counters, count, taken, n)
        for contender in (ours, *peers.values()):
            for one, other in zip(cast(tuple[Tensor, ...], contender()), expected, strict=True):
                assert one.equal(other)

    return Case("take", str(n), torch.int32, n * 16, ours, peers, gate)


def compact_case(n: int, device: str, compiled: bool) -> Case:
    slots = torch.randperm(n, device=device).int()
    slots[::16] = -1
    reason = torch.where(torch.rand(n, device=device) < 0.4, 0, -1).int()
    at = torch.randint(1, 6, (n,), dtype=torch.int32, device=device)
    # A place more than the ring has, and a row more than the record: where `static` puts what nobody wants.
    memory, notes = torch.zeros(n + 1, device=device).int(), torch.zeros(n + 2, 3, device=device).int()
    ring, record = memory[:n], notes.view(-1)[1 : 3 + 3 * n]
    counters = torch.tensor([5 * n + 3, 6 * n + 3], device=device)

    def eager() -> None:
        leaves = (slots >= 0) & (reason >= 0)
        kept, left = slots[(slots >= 0) & (reason < 0)], torch.stack([slots, at, reason], 1)[leaves]
        ring[(counters[1] + torch.arange(len(kept), device=device)) % n] = kept
        record[2 : 2 + left.numel()] = left.view(-1)
        counters[0] += len(kept) + len(left)
        counters[1] += len(kept)
        record[0], record[1] = len(left), counters[1] - counters[0]

    def static() -> None:
        stays, leaves = (slots >= 0) & (reason < 0), (slots >= 0) & (reason >= 0)
        rank, order = stays.cumsum(0), leaves.cumsum(0)
        memory[torch.where(stays, (counters[1] + rank - 1) % n, n)] = slots
        notes[torch.where(leaves, order, n + 1)] = torch.stack([slots, at, reason], 1)
        counters.add_(torch.stack([rank[-1] + order[-1], rank[-1]]))
        record[:2] = torch.stack([order[-1], counters[1] - counters[0]])

    def ours() -> None:
        gk.compact(slots, reason, at, ring, counters, record, took=True)

    peers: dict[str, Call] = {"eager": eager, "static": static}
    if compiled:
        peers["compile"] = torch.compile(static, dynamic=False)

    def gate() -> None:
        written = ring, counters, record
        before = [part.clone() for part in written]
        gk.compact_reference(slots, reason, at, *written, took=True)
        expected = [part.clone() for part in written]
        for contender in (ours, *peers.values()):
            for part, value in zip(written, before, strict=True):
                part.copy_(value)
            contender()
            for part, value in zip(written, expected, strict=True):
                assert part.equal(value)

    return Case("compact", str(n), torch.int32, n * 24, ours, peers, gate)


def deliver_case(n: int, classes: int, device: str, compiled: bool) -> Case:
    """All rows leave, to one owner of n answers."""
    capacity, steps = 2 * n, 5
    slots, homes = torch.randperm(capacity, device=device)[:n].int(), torch.randperm(n, device=device)
    reason, at = torch.zeros_like(slots), torch.randint(1, steps + 1, (n,), dtype=torch.int32, device=device)
    label = torch.randint(0, classes, (capacity, 2, 1), dtype=torch.int32, device=device)
    confidence = torch.rand(capacity, 2, 1, device=device)
    logits = torch.randn(capacity, 2, classes, device=device)
    origins = torch.randint(0, 99, (capacity, steps, 2), dtype=torch.int32, device=device)
    answers = torch.zeros(2, n, device=device).long(), torch.zeros(n, device=device)
    values, points = (
        torch.zeros(n, classes, device=device),
        torch.zeros(n, steps - 1, 2, device=device).long(),
    )
    owner = answers[0][0], answers[1], answers[0][1], values, points
    home = torch.zeros(capacity, dtype=torch.int64, device=device)
    home[slots] = homes
    places = torch.zeros(capacity, 5, dtype=torch.int64, device=device)
    places[slots] = torch.stack(
        [part.data_ptr() + homes * part.stride(0) * part.element_size() for part in owner], 1
    )

    def written(slot: Tensor, step: Tensor) -> None:
        to, newest = home[slot], (step - 1) % 2
        owner[0][to] = label[slot, newest, 0].long()
        owner[1][to] = confidence[slot, newest, 0]
        owner[2][to] = step.long()
        values[to] = logits[slot, newest]
        beyond = torch.arange(2, steps + 1, device=device) > step[:, None]
        points[to] = torch.where(beyond[:, :, None], -1, origins[slot, 1:]).long()

    def eager() -> None:
        leaves = (slots >= 0) & (reason >= 0)
        written(slots[leaves], at[leaves])

    def unpadded() -> None:
        written(slots, at)

    def ours() -> None:
        gk.deliver(slots, reason, at, label, confidence, logits, origins, places)

    peers: dict[str, Call] = {"eager": eager, "unpadded": unpadded}
    if compiled:
        peers["compile"] = torch.compile(unpadded, dynamic=False)

    def gate() -> None:
        eager()
        expected = [part.clone() for part in owner]
        for contender in (ours, *peers.values()):
            for part in owner:
                part.zero_()
            contender()
            for part, value in zip(owner, expected, strict=True):
                assert part.equal(value)

    moved = n * (2 * 4 * classes + 8 + 8 * 5 + 4 + 8 + 24 * (steps - 1))
    return Case("deliver", f"{n} x {classes}", torch.float32, moved, ours, peers, gate)


def gru_case(n: int, width: int, dtype: torch.dtype, device: str, compiled: bool) -> Case:
    gates_in, gates_state = (torch.randn(n, 3 * width, device=device).to(dtype) for _ in range(2))
    state, slots = (
        torch.randn(2 * n, width, device=device).to(dtype),
        torch.randperm(2 * n, device=device)[:n].int(),
    )

    def advanced(at: Tensor) -> Tensor:
        h = state.index_select(0, at)
        r, z, n_in = gates_in.chunk(3, 1)
        r_back, z_back, n_back = gates_state.chunk(3, 1)
        candidate = torch.tanh(n_in + torch.sigmoid(r + r_back) * n_back)
        return (h - candidate) * torch.sigmoid(z + z_back) + candidate

    def eager() -> Tensor:
        live = slots >= 0
        new = advanced(slots.clamp(min=0)) * live[:, None]
        state.index_copy_(0, slots[live].long(), new[live])
        return new

    def unpadded() -> Tensor:
        new = advanced(slots)
        state.index_copy_(0, slots.long(), new)
        return new

    def ours() -> Tensor:
        return gk.gru_step(gates_in, gates_state, state, slots)

    peers: dict[str, Call] = {"eager": eager, "unpadded": unpadded}
    if compiled:
        peers["compile"] = torch.compile(unpadded, dynamic=False)

    def gate() -> None:
        before = state.clone()
        expected = gk.gru_step_reference(gates_in, gates_state, state, slots)
        for contender in (ours, *peers.values()):
            state.copy_(before)
            close(contender(), expected, dtype)
        state.copy_(before)

    return Case("gru_step", f"{n} x {width}", dtype, 9 * n * width * dtype.itemsize, ours, peers, gate)


def rows_case(n: int, width: int, dtype: torch.dtype, device: str) -> Iterator[Case]:
    arena, rows = (
        torch.randn(2 * n, width, device=device).to(dtype),
        torch.randn(n, width, device=device).to(dtype),
    )
    slots = torch.randperm(2 * n, device=device)[:n].int()
    moved, size = 2 * n * width * dtype.itemsize, f"{n} x {width}"

    def eager_take() -> Tensor:
        taken = arena.index_select(0, slots.clamp(min=0))
        taken[slots < 0] = 0
        return taken

    def eager_put() -> Tensor:
        live = slots >= 0
        return arena.index_copy_(0, slots[live].long(), rows[live])

    take: dict[str, Call] = {"eager": eager_take, "unpadded": lambda: arena.index_select(0, slots)}
    yield Case(
        "gather", size, dtype, moved, lambda: gk.gather(arena, slots), take,
        lambda: close(gk.gather(arena, slots), arena[slots], dtype),
    )  # fmt: skip

    def gate() -> None:
        gk.scatter(arena, slots, rows)
        close(arena[slots], rows, dtype)

    put: dict[str, Call] = {
        "eager": eager_put,
        "unpadded": lambda: arena.index_copy_(0, slots.long(), rows),
    }
    yield Case("scatter", size, dtype, moved, lambda: gk.scatter(arena, slots, rows), put, gate)


def several_case(n: int, dtype: torch.dtype, device: str) -> Iterator[Case]:
    """What a focus launch of a ResNet-50 at 96 px reads and writes, at once and an arena a launch."""
    whole = [(18432,), (1024,), (2,), (1024,)]
    parts = [whole[0], whole[1], whole[3], (2, 1000), (2, 1), (2, 1), (5, 2)]
    types = [dtype, torch.float32, torch.float32, dtype]
    arenas = [torch.randn(2 * n, *shape, device=device).to(t) for shape, t in zip(whole, types, strict=True)]
    types = [dtype, torch.float32, dtype, torch.float32, torch.float32, torch.int32, torch.int32]
    homes = [
        torch.zeros(2 * n, *shape, device=device, dtype=t) for shape, t in zip(parts, types, strict=True)
    ]
    rows = [torch.randn(n, home.shape[-1], device=device).to(home.dtype) for home in homes]
    slots, step = torch.randperm(2 * n, device=device)[:n].int(), torch.full((n,), 2, device=device).int()
    steps = [step if home.ndim == 3 else None for home in homes]

    def take_each() -> list[Tensor]:
        return [gk.gather(arena, slots) for arena in arenas]

    def put_each() -> None:
        for home, part, at in zip(homes, rows, steps, strict=True):
            gk.scatter(home, slots, part, at)

    def put() -> None:
        gk.scatter_all(homes, slots, rows, step)

    def gate() -> None:
        put()
        for home, part in zip(homes, rows, strict=True):
            close((home if home.ndim == 2 else home[:, 1])[slots], part, dtype)

    moved = [2 * n * sum(t.shape[-1] * t.element_size() for t in several) for several in (arenas, homes)]
    size = f"{n} x {len(arenas)} arenas"
    yield Case(
        "gather_all", size, dtype, moved[0], lambda: gk.gather_all(arenas, slots), {"each": take_each},
        lambda: close(list(gk.gather_all(arenas, slots)), take_each(), dtype),
    )  # fmt: skip
    yield Case("scatter_all", f"{n} x {len(homes)} arenas", dtype, moved[1], put, {"each": put_each}, gate)


def cases(device: str, quick: bool, compiled: bool) -> Iterator[Case]:
    """All cases, smallest first; a CPU gets fewer images and float32 beside bfloat16."""
    gpu = device != "cpu"
    counts = (4,) if quick else (1, 64, 1024) if gpu else (1, 8, 64)
    types = (torch.bfloat16,) if gpu or quick else (torch.float32, torch.bfloat16)
    for dtype in types:
        for n in counts:
            yield glance_case(n, 224, 96, "bicubic", dtype, device, compiled)
            yield glance_case(n, 224, 96, "bilinear", dtype, device, False)
            yield crop_case(n, 224, 96, dtype, device, compiled)
        rows = 64 if quick else 1024
        if not quick:
            yield glance_case(counts[-1], 300, 144, "bicubic", dtype, device, False)
            yield crop_case(counts[-1], 300, 144, dtype, device, False)
            yield exits_case(64, 1000, dtype, device, False)
            yield gru_case(64, 256, dtype, device, False)
        yield exits_case(rows, 1000, dtype, device, compiled)
        yield gru_case(rows, 1024, dtype, device, compiled)
        yield from rows_case(rows, 1024, dtype, device)
        for n in (4,) if quick else (1, 8, 64):
            yield from several_case(n, dtype, device)
    for n in (64,) if quick else (64, 1024, 65536):
        yield take_case(n, device, compiled)
        yield compact_case(n, device, compiled)
    for n, classes in ((64, 10),) if quick else ((64, 10), (64, 1000), (1024, 1000)):
        yield deliver_case(n, classes, device, compiled)
