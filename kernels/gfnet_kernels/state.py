"""One GRU step on the rows of an arena: the pointwise part, with the state read and written at its slot.

    gates_in     [n, 3H]       x W_ih^T + b_ih, in torch's order r, z, n
    gates_state  [n, 3H]       h W_hh^T + b_hh; or [3H], b_hh alone: a first step, from a zero state, unread
    state        [slots, H]    the arena, updated in place
    slots        [n] int32     no slot twice; -1: nothing is read or written in the arena, and the row is zero
    out          [n, H]        the new states, in the gates' type

    r = sigmoid(in_r + state_r), z = sigmoid(in_z + state_z), n = tanh(in_n + r * state_n)
    h' = (h - n) * z + n

With H = 1, h = 2 at slot 5 and both gates [[0, 0, 0]]: r = z = .5, n = 0, and h' = 1 goes to state[5] and
out[0].
"""

import torch
import triton
import triton.language as tl
from gfnet_kernels._library import (
    FLOAT_DTYPES,
    expect,
    expect_range,
    expect_rows_apart,
    expect_tensor,
    output,
    register,
)
from torch import Tensor

BLOCK = 1024
BLOCK_CPU = 1 << 16  # values of each gate worked on at a time, to stay in a core's second-level cache
REGISTERS = 64


@triton.jit
def tanh(x):
    """Hyperbolic tangent, through the exponential of a value never above 0 so that none overflows."""
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def gru_kernel(
    gates_in, gates_state, state, slots, out,
    H: tl.constexpr, IN_STRIDE: tl.constexpr, GATES_STRIDE: tl.constexpr, STATE_STRIDE: tl.constexpr,
    FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row).to(tl.int64)
    live = slot >= 0
    mask = column < tl.where(live, H, 0)

    into = gates_in + row * IN_STRIDE + column
    back = gates_state + row * GATES_STRIDE + column
    at = state + tl.maximum(slot, 0) * STATE_STRIDE + column
    r_in = tl.load(into, mask=mask, other=0).to(tl.float32)
    r_back = tl.load(back, mask=mask, other=0).to(tl.float32)
    z_in = tl.load(into + H, mask=mask, other=0).to(tl.float32)
    z_back = tl.load(back + H, mask=mask, other=0).to(tl.float32)
    n_in = tl.load(into + 2 * H, mask=mask, other=0).to(tl.float32)
    n_back = tl.load(back + 2 * H, mask=mask, other=0).to(tl.float32)
    h = tl.zeros((BLOCK,), tl.float32)
    if not FIRST:
        h = tl.load(at, mask=mask, other=0).to(tl.float32)

    n = tanh(n_in + tl.sigmoid(r_in + r_back) * n_back)
    new = (h - n) * tl.sigmoid(z_in + z_back) + n

    tl.store(at, new.to(state.dtype.element_ty), mask=mask)
    new = tl.where(live, new, 0.0).to(out.dtype.element_ty)
    tl.store(out + row * H + column, new, mask=column < H)


def gru_launch(gates_in: Tensor, gates_state: Tensor, state: Tensor, slots: Tensor, out: Tensor) -> None:
    """Launch one program per row and BLOCK columns."""
    rows, width = out.shape
    block = min(triton.next_power_of_2(width), BLOCK)
    first = gates_state.ndim == 1
    if rows:
        gru_kernel[(rows, triton.cdiv(width, block))](
            gates_in, gates_state, state, slots, out,
            H=width, IN_STRIDE=gates_in.stride(0), GATES_STRIDE=0 if first else gates_state.stride(0),
            STATE_STRIDE=state.stride(0), FIRST=first, BLOCK=block,
            num_warps=max(block // 256, 1), enable_fp_fusion=True,
        )  # fmt: skip


def _gru_block(gates_in: Tensor, gates_state: Tensor, state: Tensor, slots: Tensor, out: Tensor) -> None:
    width = out.shape[1]
    gates_in, back = gates_in.float(), gates_state.float()
    rz = (gates_in[:, : 2 * width] + back[..., : 2 * width]).sigmoid_()
    n = rz[:, :width].mul(back[..., 2 * width :]).add_(gates_in[:, 2 * width :])
    # tanh(n) = 2 sigmoid(2n) - 1, within 2e-7: torch takes 44 us for 64 x 256 tanh on a core, 8 for sigmoid.
    n = torch.rsub(n.mul_(2).sigmoid_(), -1, alpha=-2)
    first = gates_state.ndim == 1
    h = n.new_zeros(()).expand_as(n) if first else state.index_select(0, slots).float()
    new = torch.lerp(n, h, rz[:, width:])
    state.index_copy_(0, slots.long(), new.to(state.dtype))
    out.copy_(new)


def _gru_cpu(gates_in: Tensor, gates_state: Tensor, state: Tensor, slots: Tensor, out: Tensor) -> None:
    if len(slots) and int(slots.min()) < 0:
        rows = slots >= 0
        live = out.new_empty(int(rows.sum()), out.shape[1])
        back = gates_state if gates_state.ndim == 1 else gates_state[rows]
        _gru_cpu(gates_in[rows], back, state, slots[rows], live)
        out.zero_()[rows] = live
        return
    step = BLOCK_CPU // out.shape[1] or 1
    if len(slots) <= step:
        _gru_block(gates_in, gates_state, state, slots, out)
        return
    for block in (slice(first, first + step) for first in range(0, len(slots), step)):
        back = gates_state if gates_state.ndim == 1 else gates_state[block]
        _gru_block(gates_in[block], back, state, slots[block], out[block])


def expect_unique(slots: Tensor, count: int) -> None:
    """Check that every slot is -1 or one of count, and that none is named twice."""
    expect_range("slots", slots, -1, count - 1)
    live = slots[slots >= 0]
    repeats = len(live) - len(live.unique())
    expect(repeats == 0, "slots", "no slot twice", f"{repeats} repeats")


def _gru_values(gates_in: Tensor, gates_state: Tensor, state: Tensor, slots: Tensor, out: Tensor) -> None:
    expect_unique(slots, len(state))


_gru = register(
    "gru_step",
    "Tensor gates_in, Tensor gates_state, Tensor(a!) state, Tensor slots, Tensor(b!) out",
    cpu=_gru_cpu,
    cuda=gru_launch,
    values=_gru_values,
)


def gru_step(
    gates_in: Tensor, gates_state: Tensor, state: Tensor, slots: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Advance the GRU state of each row's slot in the arena, and return the new states as rows.

    Parameters
    ----------
    gates_in
        [n, 3H] float32, float16 or bfloat16: x W_ih^T + b_ih.
    gates_state
        [n, 3H] of the same type: h W_hh^T + b_hh. For a first step b_hh alone, [3H].
    state
        The arena, [slots, H], of any of the three types; the arithmetic is float32.
    slots
        int32 [n], no slot twice; -1 gives a zero row and leaves the arena alone.
    out
        Caller's buffer [n, H] of the gates' type, for a captured graph.

    Returns
    -------
    Tensor
        The new states, [n, H].
    """
    device = state.device
    expect_tensor("state", state, (None, None), FLOAT_DTYPES, device)
    expect_tensor("slots", slots, (None,), (torch.int32,), device)
    rows, width = len(slots), state.shape[1]
    expect(width > 0, "state", "at least one column", width)
    expect_tensor("gates_in", gates_in, (rows, 3 * width), FLOAT_DTYPES, device)
    shape = (3 * width,) if gates_state.ndim == 1 else (rows, 3 * width)
    expect_tensor("gates_state", gates_state, shape, (gates_in.dtype,), device)
    expect(state.stride(1) == 1, "state", "adjacent columns", f"strides {state.stride()}")
    expect_rows_apart("state", state)
    out = output(out, (rows, width), gates_in.dtype, device)
    gates_in = gates_in if gates_in.stride(1) == 1 else gates_in.contiguous()
    gates_state = gates_state if gates_state.stride(-1) == 1 else gates_state.contiguous()
    _gru(gates_in, gates_state, state, slots.contiguous(), out)
    return out


def gru_step_reference(
    gates_in: Tensor, gates_state: Tensor, state: Tensor, slots: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Same as `gru_step`, one row at a time."""
    width = state.shape[1]
    result = torch.zeros(len(slots), width, dtype=gates_in.dtype, device=state.device)
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            first = gates_state.ndim == 1
            gi, gh = gates_in[row].float(), (gates_state if first else gates_state[row]).float()
            h = torch.zeros_like(gi[:width]) if first else state[slot].float()
            r, z = torch.sigmoid(gi[:width] + gh[:width]), torch.sigmoid((gi + gh)[width : 2 * width])
            n = torch.tanh(gi[2 * width :] + r * gh[2 * width :])
            new = (1 - z) * n + z * h
            state[slot], result[row] = new.to(state.dtype), new.to(result.dtype)
    return result if out is None else out.copy_(result)
