"""What `kernels.py` times: each op at its sizes, its peers, and the check that comes first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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


def exits_case(
    n: int, classes: int, dtype: torch.dtype, device: str, compiled: bool, compacted: bool
) -> Case:
    logits = (torch.randn(n, classes, device=device) * 4).to(dtype)
    step = torch.randint(1, 6, (n,), dtype=torch.int32, device=device)
    thresholds = torch.tensor([0.9, 0.8, 0.7, 0.6, -1e8], device=device)
    slots = torch.arange(n, dtype=torch.int32, device=device)

    def bare_exits() -> tuple[Tensor, ...]:
        confidence, label = logits.softmax(1, dtype=torch.float32).max(1)
        return confidence, label.int(), confidence >= thresholds[step - 1]

    def eager() -> tuple[Tensor, ...]:
        confidence, label, leaves = bare_exits()
        padded = slots < 0
        results = confidence.masked_fill(padded, 0), label.masked_fill(padded, -1), leaves & ~padded
        return (*results, *padded_list(slots, results[2])) if compacted else results

    def unpadded() -> tuple[Tensor, ...]:
        results = bare_exits()
        return (*results, slots[~results[2]]) if compacted else results

    def static() -> tuple[Tensor, ...]:
        results = bare_exits()
        return (*results, slots[torch.nonzero_static(~results[2], size=n, fill_value=0)[:, 0]])

    def ours() -> tuple[Tensor, ...]:
        results = gk.exits(logits, step, thresholds, slots=slots)
        return (*results, *gk.compact(slots, results[2])) if compacted else results

    peers: dict[str, Call] = {"eager": eager, "unpadded": unpadded}
    if compacted:
        peers["nonzero_static"] = static
    if compiled:
        peers["compile"] = torch.compile(static if compacted else unpadded, dynamic=False)

    def gate() -> None:
        actual, expected = ours(), eager()
        for one, other in zip(actual[:3], expected[:3], strict=True):
            close(one, other, torch.float32)
        if compacted:
            assert actual[3].equal(expected[3])

    moved = n * classes * dtype.itemsize + n * (8 + 9) + (n * 9 if compacted else 0)
    op = "exits + compact" if compacted else "exits"
    return Case(op, f"{n} x {classes}", dtype, moved, ours, peers, gate)


def padded_list(slots: Tensor, exited: Tensor) -> tuple[Tensor, Tensor]:
    """What `compact` returns, by boolean indexing."""
    stays = slots[(slots >= 0) & ~exited]
    count = torch.tensor([len(stays)], dtype=torch.int32, device=slots.device)
    return F.pad(stays, (0, len(slots) - len(stays)), value=-1), count


def compact_case(n: int, device: str) -> Case:
    slots = torch.randperm(n, device=device).int()
    exited = torch.rand(n, device=device) < 0.4
    peers: dict[str, Call] = {
        "eager": lambda: padded_list(slots, exited),
        "unpadded": lambda: slots[~exited],
        "nonzero": lambda: slots[torch.nonzero(~exited)[:, 0]],
        "nonzero_static": lambda: slots[torch.nonzero_static(~exited, size=n, fill_value=0)[:, 0]],
    }

    def gate() -> None:
        for one, other in zip(gk.compact(slots, exited), padded_list(slots, exited), strict=True):
            assert one.equal(other)

    return Case("compact", str(n), torch.int32, n * 9, lambda: gk.compact(slots, exited), peers, gate)


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
            yield exits_case(64, 1000, dtype, device, False, False)
            yield gru_case(64, 256, dtype, device, False)
        yield exits_case(rows, 1000, dtype, device, compiled, False)
        yield exits_case(rows, 1000, dtype, device, compiled, True)
        yield gru_case(rows, 1024, dtype, device, compiled)
        yield from rows_case(rows, 1024, dtype, device)
        for n in (4,) if quick else (1, 8, 64):
            yield from several_case(n, dtype, device)
    for n in (64,) if quick else (64, 1024, 65536):
        yield compact_case(n, device)
