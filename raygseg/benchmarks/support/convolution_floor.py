"""The least a step could cost: its dense convolutions alone, replayed without anything around them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class Layout(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool

    @classmethod
    def of(cls, x: Tensor) -> Layout:
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return cls(tuple(x.shape), x.dtype, last)

    def make(self, device: torch.device) -> Tensor:
        x = torch.randn(self.shape, dtype=self.dtype, device=device)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x


class Call(NamedTuple):
    """One convolution: forward, or backward with the gradients (of input, weight, bias) in `mask`."""

    x: Layout
    weight: Layout
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    mask: tuple[bool, ...] = ()

    def prepared(self, device: torch.device) -> Callable[[], Any]:
        """A call without arguments that computes it, on random numbers."""
        x, weight = self.x.make(device), self.weight.make(device)
        rest = [*map(list, (self.stride, self.padding, self.dilation)), self.transposed, list(self.output_padding), 1]
        if not self.mask:
            return lambda: aten.convolution(x, weight, None, *rest)
        y = aten.convolution(x, weight, None, *rest)
        bias = [y.shape[1]] if self.mask[2] else None
        return lambda: aten.convolution_backward(y, x, weight, bias, *rest, list(self.mask))

    def flops(self) -> int:
        """Multiplications and additions; a transposed convolution spreads every input sample."""
        n, _, *size = self.x.shape
        if not self.transposed:
            kernel = self.weight.shape[2:]
            axes = zip(size, kernel, self.stride, self.padding, strict=True)
            size = [(length + 2 * pad - k) // stride + 1 for length, k, stride, pad in axes]
        return 2 * n * math.prod(size) * math.prod(self.weight.shape) * (sum(self.mask[:2]) if self.mask else 1)


class ConvolutionLog(TorchDispatchMode):
    """Counts the dense (ungrouped) convolutions that run under it, forward and backward.

    FIR filters are depthwise and do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Call] = Counter()

    @property
    def flops(self) -> int:
        return sum(call.flops() * count for call, count in self.calls.items())

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        if function is aten.convolution.default:
            self._log(arguments[0], arguments[1], arguments[3:9], ())
        elif function is aten.convolution_backward.default:
            self._log(arguments[1], arguments[2], arguments[4:10], tuple(arguments[10]))
        return function(*arguments, **(keywords or {}))

    def _log(self, x: Tensor, weight: Tensor, geometry: tuple[Any, ...], mask: tuple[bool, ...]) -> None:
        stride, padding, dilation, transposed, output_padding, groups = geometry
        if groups == 1:
            sizes = (tuple(stride), tuple(padding), tuple(dilation), transposed, tuple(output_padding))
            self.calls[Call(Layout.of(x), Layout.of(weight), *sizes, mask)] += 1


def replay_seconds(log: ConvolutionLog, device: torch.device, repeats: int = 5) -> float:
    """Seconds that the logged convolutions take one after the other, in the layouts they were called with."""
    return sum(count * _seconds(call.prepared(device), device, repeats) for call, count in log.calls.items())


def _seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return median(times)


def wait(device: torch.device) -> None:
    """Until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
