"""Running a predictor's audited images to the end, a batch at a time, beside the others."""

from __future__ import annotations

import threading
from collections import defaultdict

import torch
from numpy.typing import NDArray
from torch import Tensor

from gfnet_fast.engine.running import plain
from gfnet_fast.exits import Audit
from gfnet_fast.forks import watch
from gfnet_fast.model.gfnet import GFNet


class Auditing:
    """What a predictor tells its :class:`~gfnet_fast.Audit`; may be used by several threads.

    An image that was chosen takes all steps once more, in the plain model and in float32, when a batch of
    them has left or the call ends. Its class there against the one it left with is the audit's loss.
    """

    def __init__(self, audit: Audit, model: GFNet, batch: int) -> None:
        self.audit, self.model, self.batch = audit, model, batch
        self.begin_fork()
        watch(self)

    def begin_fork(self) -> bool:
        """In a process that has just forked: images that have left are its parent's."""
        self._lock = threading.Lock()
        self._left: list[tuple[Tensor, int]] = []
        return False

    def choose(self, images: int) -> NDArray:
        """Which of the next images to audit: bool ``[n]``."""
        with self._lock:
            return self.audit.choose(images)

    def left(self, image: Tensor, class_id: int) -> None:
        """A chosen image, ``[H, W, 3]`` or ``[3, H, W]``, has left with this class; -1: with none."""
        if class_id < 0:
            return
        with self._lock:
            self._left.append((image, class_id))
            full = len(self._left) >= self.batch
        if full:
            self.finish()

    def finish(self) -> None:
        """Run what has left to the end, and tell the audit."""
        with self._lock:
            left, self._left = self._left, []
        kinds: dict[tuple[torch.dtype, tuple[int, ...]], list[tuple[Tensor, int]]] = defaultdict(list)
        for image, class_id in left:
            kinds[image.dtype, tuple(image.shape)].append((image, class_id))
        for alike in kinds.values():
            images = torch.stack([image for image, _ in alike])
            with plain(self.model.device):
                images = images if images.is_floating_point() else self.model.normalise(images)
                finals = self.model.trace(images).logits[-1].argmax(-1)
            with self._lock:
                self.audit.observe([class_id for _, class_id in alike], finals.cpu())
