"""What a rendered label map costs against a true one: cross-entropy and Dice with temperatures (spec B7).

The label branch gives values of about +-1, on which a softmax or a sigmoid says little; dividing by a temperature
below one makes them logits.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from raygseg.methods.semanticgan.label_codec import LabelCodec

SMALLEST = 1e-6


def label_cross_entropy(codec: LabelCodec, logits: Tensor, maps: Tensor, temperature: float = 0.0) -> Tensor:
    """Mean over known pixels of the cross-entropy of logits / tau; two classes: of the sigmoid of their one channel.

    Args:
        logits: [N, C, H, W] of the label branch.
        maps: [N, H, W] uint8 class indices.
        temperature: tau; 0: the codec's, 0.1 for raw outputs of many classes and 0.3 for those of two.
    """
    scaled, known = logits / (temperature or codec.temperature), codec.known(maps)
    if codec.binary:
        target = (codec.encode(maps) > 0).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(scaled, target, reduction="none")
    else:
        index = maps.long() * (known[:, 0] > 0)  # a void pixel counts nothing, but needs an index in range
        each = F.cross_entropy(scaled, index, reduction="none")[:, None]
    return (each * known).sum() / known.sum().clamp_min(1.0)


def label_dice(
    codec: LabelCodec,
    logits: Tensor,
    maps: Tensor,
    temperature: float = 0.0,
    per_image: bool = False,
) -> Tensor:
    """1 - mean_c 2 sum(p q) / max(sum p^2 + sum q^2, 1e-6), with q in {0, 1} and p = sigmoid(logits / tau) a channel.

    tau = 0: p as the codec reads the logits, which for raw ones is the published sigmoid with 0.3 (spec B7).
    Sums are over known pixels of the whole batch, as published, or of one picture at a time. Of many classes the
    background is left out; the one channel of two classes is the other class's.
    """
    known = codec.known(maps)
    p = ((logits / temperature).sigmoid() if temperature else codec.memberships(logits)) * known
    q = (codec.encode(maps) > 0).to(p.dtype)
    if not codec.binary and codec.labels.background is not None:
        kept = [c for c in range(codec.channels) if c != codec.labels.background]
        p, q = p[:, kept], q[:, kept]
    over = (2, 3) if per_image else (0, 2, 3)
    both = (p * q).sum(over)
    each = (p.square() + q.square()).sum(over).clamp_min(SMALLEST)
    return 1 - (2 * both / each).mean()
