"""Rendered blocks, shared by all sources of a process and bounded in bytes."""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable, Hashable

import numpy as np


class BlockCache:
    """The most recently used arrays, at most ``limit`` bytes of them; safe to use from many threads."""

    def __init__(self, limit: int):
        self.limit = limit
        self.reset()

    def reset(self) -> None:
        """Empty, with a fresh lock: a lock that another thread held while the process forked would stay closed."""
        self._lock = threading.Lock()
        self._blocks: collections.OrderedDict[Hashable, np.ndarray] = collections.OrderedDict()
        self.used = 0

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array for ``key``, read-only. ``make`` runs outside the lock: two threads may make it, both the same."""
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        block = make()
        block.flags.writeable = False
        with self._lock:
            if key not in self._blocks and block.nbytes <= self.limit:
                self._blocks[key] = block
                self.used += block.nbytes
                while self.used > self.limit:
                    _, old = self._blocks.popitem(last=False)
                    self.used -= old.nbytes
        return block


BLOCKS = BlockCache(384 * 2**20)
os.register_at_fork(after_in_child=BLOCKS.reset)
