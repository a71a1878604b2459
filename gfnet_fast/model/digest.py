"""A short name for the weights that a model's answers depend on."""

from __future__ import annotations

from hashlib import sha256

from torch import nn

DIGITS = 32
"""Hexadecimal digits of a digest."""

CRITIC = "policy.critic."
"""What only training asks."""

CHUNK = 2**20
"""Numbers that are converted at a time."""


def weights_digest(model: nn.Module) -> str:
    """The first 32 hexadecimal digits of a SHA-256 over names, shapes and numbers of a model's weights.

    All floating-point tensors of the state dict count, but the critic's, rounded to float16: a copy that was
    saved in half precision has the same digest. Devices and memory layouts make no difference.
    """
    found = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not tensor.is_floating_point() or name.startswith(CRITIC):
            continue
        found.update(f"{name} {list(tensor.shape)}\n".encode())
        for part in tensor.detach().reshape(-1).split(CHUNK):
            # By way of float32, as files are read, or a float64 might round to another half.
            found.update(part.float().half().cpu().numpy().astype("<f2", copy=False))
    return found.hexdigest()[:DIGITS]
