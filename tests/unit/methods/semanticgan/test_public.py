"""The released networks beside ours; RAYGSEG_PEERS names the folder of the checkout."""

from __future__ import annotations

import os

import pytest

from raygseg.benchmarks.support import peers

CASES = [(32, 3, 8), (32, 1, 1)]  # resolution, channels of pictures and of labels


@pytest.mark.timeout(300)
def test_same_weights_same_pictures_labels_and_judgements() -> None:
    root = os.environ.get(peers.VARIABLE)
    if not root or not os.path.isdir(os.path.join(root, peers.SEMANTICGAN)):
        pytest.skip(f"{peers.VARIABLE} does not name a folder with a checkout of {peers.SEMANTICGAN}")
    found = peers.run_beside("raygseg.benchmarks.support.parity_semanticgan", {"cases": CASES})
    for errors in found["errors"]:
        assert errors.keys() == {"picture", "labels", "patch logits", "features"}
        assert max(errors.values()) < 1e-4, errors
