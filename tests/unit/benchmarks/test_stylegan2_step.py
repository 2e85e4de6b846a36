from __future__ import annotations

import torch
from torch.nn import functional

from raygseg.benchmarks import stylegan2_step
from raygseg.benchmarks.support.convolution_floor import ConvolutionLog, replay_seconds


def test_both_forms_compute_the_same_gradients() -> None:
    result = stylegan2_step.run(resolution=8, channel_base=64, channel_max=8, batch_size=4, repeats=1)
    assert result["relative_error"] < 1e-5
    assert result["ratio"] > 0 and result["convolution_gflop_a_step"] > 0 and result["floor_share"] > 0


def test_the_log_counts_dense_convolutions_both_ways() -> None:
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    weight = torch.randn(6, 4, 3, 3, requires_grad=True)
    fir = torch.randn(6, 1, 3, 3)
    with ConvolutionLog() as log:
        y = functional.conv2d(x, weight, padding=1)
        functional.conv2d(y, fir, padding=1, groups=6).sum().backward()  # type: ignore[no-untyped-call]
    forward = 2 * (2 * 8 * 8) * weight.numel()
    assert log.flops == 3 * forward  # forward, gradient of x, gradient of the weight; the FIR is depthwise
    assert sum(log.calls.values()) == 2
    assert replay_seconds(log, torch.device("cpu"), repeats=1) > 0


def test_a_transposed_convolution_costs_what_it_spreads() -> None:
    with ConvolutionLog() as log:
        functional.conv_transpose2d(torch.randn(1, 3, 5, 5), torch.randn(3, 2, 3, 3), stride=2)
    assert log.flops == 2 * 25 * 3 * 2 * 9
