from __future__ import annotations

import pytest

from raygseg.config.sections import Runtime
from raygseg.data import object_store
from raygseg.engine import state_tree
from raygseg.engine.checkpoint import DOCUMENT, CheckpointFolder
from raygseg.engine.local import run_local
from tests.unit.data.conftest import s3_environment, s3_place  # noqa: F401 - fixtures of a real S3 server
from tests.unit.engine.regression_recipe import RegressionRecipe, RegressionStream
from tests.unit.engine.two_workers import differing

pytestmark = pytest.mark.s3


def test_a_run_on_s3_goes_on_where_it_stopped(s3_place: str) -> None:  # noqa: F811
    runtime = Runtime(checkpoint_kimg=0.03, keep_checkpoints=2)
    undisturbed = RegressionRecipe()
    run_local(undisturbed, RegressionStream(), f"{s3_place}/a", runtime)
    count = iter(range(100))
    assert not run_local(RegressionRecipe(), RegressionStream(), f"{s3_place}/b", runtime, stop=lambda: next(count) > 9)
    folder = CheckpointFolder(f"{s3_place}/b")
    newest = folder.names()[0]
    object_store.write_bytes(object_store.join(folder.uri, newest, DOCUMENT), b"{")  # cut short
    resumed = RegressionRecipe()
    assert run_local(resumed, RegressionStream(), f"{s3_place}/b", runtime)
    assert differing(state_tree.split(resumed.state_dict())[0], state_tree.split(undisturbed.state_dict())[0]) == []
    assert "checkpoint-000000160" in folder.names() and len(folder.names()) <= 3
