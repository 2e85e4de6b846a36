"""What was computed lately, up to a number of bytes: features of pictures that many episodes share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor


class TensorCache:
    """Tensors by key; the least recently used leave when `limit` bytes would be exceeded.

    Attributes:
        limit: bytes. held: bytes now. peak: most bytes so far. made: how often something had to be computed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = self.peak = self.made = 0
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor under `key`, made where it is not there. One larger than the limit is not kept."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        made = make()
        self.made += 1
        size = made.numel() * made.element_size()
        while self._kept and self.held + size > self.limit:
            _, old = self._kept.popitem(last=False)
            self.held -= old.numel() * old.element_size()
        if size <= self.limit:
            self._kept[key] = made
            self.held += size
            self.peak = max(self.peak, self.held)
        return made
