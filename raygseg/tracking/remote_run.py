"""The MLflow side of a run: found or made, described once, and told only what it does not know yet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from raygseg.tracking.identity import RunSettings
from raygseg.tracking.journal import Entry
from raygseg.tracking.parameters import cut, safe_key, split_config
from raygseg.tracking.store import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Limits of MLflow's log_batch.
_METRICS_A_BATCH = 1000
_ROWS_A_BATCH = 100
# MLflow names a logged image KEY+step+NIMG+timestamp+MS+UUID.png ('%' for '+' and '#' for '~' in older stores).
_IMAGE_NAME = re.compile(r"[+%]step[+%](\d+)[+%]timestamp[+%](\d+)[+%]")


class RemoteRun:
    """A run in an MLflow store that answers. Methods raise whatever the store raises.

    Attributes:
        last: newest step of each metric that the store holds.
    """

    def __init__(self, client: MlflowClient, settings: RunSettings) -> None:
        """Find the run with the settings' identity and reopen it, or create it; log what describes it."""
        self.client = client
        run_id = settings.run_id or _find(client, settings)
        if run_id:
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = _create(client, settings)
        self.run_id = run_id
        known = client.get_run(run_id).data
        self._describe(settings, set(known.params))
        self.last: dict[str, int] = {}
        self._pictures: set[tuple[str, int, int]] = set()
        self.refresh()

    def refresh(self) -> None:
        """Learn which points and pictures the store holds by now."""
        for key in self.client.get_run(self.run_id).data.metrics:
            self.last[key] = max(point.step for point in self.client.get_metric_history(self.run_id, key))
        self._pictures = self._list_pictures()

    def send(self, entries: Sequence[Entry], folder: Path) -> None:
        """Metrics in as few calls as can be, then pictures, whose files lie under `folder`."""
        from mlflow.entities import Metric

        points = [
            Metric(key, value, entry.time, entry.nimg)
            for entry in entries
            for key, value in entry.metrics.items()
            if entry.nimg > self.last.get(key, -1)
        ]
        for first in range(0, len(points), _METRICS_A_BATCH):
            self.client.log_batch(self.run_id, metrics=points[first : first + _METRICS_A_BATCH])
        for point in points:
            self.last[point.key] = max(point.step, self.last.get(point.key, -1))
        for entry in entries:
            if entry.picture:
                self._send_picture(entry, folder / entry.file)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags with safe names and lengths; empty values are left out."""
        from mlflow.entities import RunTag

        rows = [RunTag(safe_key(key), cut(str(value))) for key, value in tags.items() if str(value)]
        for first in range(0, len(rows), _ROWS_A_BATCH):
            self.client.log_batch(self.run_id, tags=rows[first : first + _ROWS_A_BATCH])

    def describe_data(self, data: Mapping[str, tuple[str, str]]) -> None:
        """{role: (source, fingerprint)} as tags and in MLflow's own table of data sets."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(name=cut(role), digest=digest[:36] or "unknown", source_type="raygseg", source=source),
                [InputTag("mlflow.data.context", cut(role))],
            )
            for role, (source, digest) in data.items()
        ]
        if inputs:
            self.client.log_inputs(self.run_id, inputs)
        self.set_tags({f"raygseg.data.{role}.fingerprint": digest for role, (_, digest) in data.items()})

    def _send_picture(self, entry: Entry, file: Path) -> None:
        from PIL import Image

        mark = (entry.picture, entry.nimg, entry.time)
        if mark in self._pictures or not file.is_file():
            return
        with Image.open(file) as picture:
            self.client.log_image(
                self.run_id, np.asarray(picture), key=entry.picture, step=entry.nimg, timestamp=entry.time
            )
        self._pictures.add(mark)

    def _list_pictures(self) -> set[tuple[str, int, int]]:
        """(name, nimg, time) of the pictures that are already in the run."""
        found: set[tuple[str, int, int]] = set()
        for file in self.client.list_artifacts(self.run_id, "images"):
            stem = str(file.path).removeprefix("images/")
            if match := _IMAGE_NAME.search(stem):
                found.add((re.sub("[~#]", "/", stem[: match.start()]), int(match[1]), int(match[2])))
        return found

    def _describe(self, settings: RunSettings, known: set[str]) -> None:
        """Parameters that are not there yet (MLflow refuses changes), tags, data sets and the whole YAML."""
        from mlflow.entities import Param

        parameters, runtime = split_config(settings.config)
        missing = [Param(key, value) for key, value in parameters.items() if key not in known]
        for first in range(0, len(missing), _ROWS_A_BATCH):
            self.client.log_batch(self.run_id, params=missing[first : first + _ROWS_A_BATCH])
        self.set_tags({"raygseg.run_dir": settings.run_dir, **runtime, **settings.tags})
        self.describe_data(settings.data)
        if settings.config:
            text = yaml.safe_dump(_plain(settings.config), sort_keys=False)
            self.client.log_text(self.run_id, text, "config.yaml")


def _find(client: MlflowClient, settings: RunSettings) -> str:
    """Id of the newest run with the settings' identity, or empty."""
    found = client.search_runs(
        [experiment_id(client, settings.tracking_uri, settings.experiment)],
        filter_string=f"tags.`raygseg.identity` = '{settings.identity}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return str(found[0].info.run_id) if found else ""


def _create(client: MlflowClient, settings: RunSettings) -> str:
    experiment = experiment_id(client, settings.tracking_uri, settings.experiment)
    # The identity is set by the same call: a run whose maker was killed right after it is found again.
    tags = {"raygseg.identity": settings.identity, "raygseg.fingerprint": cut(settings.fingerprint)}
    return str(client.create_run(experiment, tags=tags, run_name=settings.name).info.run_id)


def _plain(value: Any) -> Any:
    """Tuples to lists, mappings to dicts, and what YAML has no word for to text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
