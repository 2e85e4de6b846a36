"""An evaluation in the experiment store: what was scored on which data, the figures and the pages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from raygseg.config.loader import fingerprint
from raygseg.config.schema import EvaluateConfig
from raygseg.data.object_store import is_s3, local_path


def track_evaluation(config: EvaluateConfig, output: str, record: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Record it as a finished run; the run's id, empty where the store does not answer.

    The same evaluation made again goes into the same run if it gives the same figures.

    Args:
        output: where the results lie.
        record: what metrics.json holds.
        files: places of the results by purpose; local ones are attached.
    """
    from raygseg.tracking.runs import TrackedRun

    found = json.dumps([record["data_fingerprint"], record["metrics"]], sort_keys=True)
    output = output if is_s3(output) else str(local_path(output).absolute())
    run = TrackedRun.find_or_create(
        config.runtime.tracking_uri,
        config.runtime.experiment,
        config.name,
        f"{fingerprint(config)}-{hashlib.blake2b(found.encode(), digest_size=8).hexdigest()}",
        config.model_dump(mode="json"),
        {"raygseg.model": config.model, "raygseg.evaluation": output},
        # As a URI, so that the tracking journal stays out of the results.
        run_dir=output if is_s3(output) else f"file://{output}",
        data={"test": (config.data, record["data_fingerprint"])},
    )
    figures = {name: value for name, value in record["metrics"].items() if value is not None}
    parts = {f"iou.{part['name']}": part["iou"] for part in record["parts"] if part["iou"] is not None}
    run.log_metrics(int(record["pictures"]), {**figures, **parts})
    for place in files.values():
        if not is_s3(place):
            run.log_file(place)
    run.finish()
    return run.run_id
