"""When the `champion` alias moves: a stated rule, and every decision kept with its reason."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raygseg.tracking.parameters import safe_key
from raygseg.tracking.store import connect, plain_errors, resolve_tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
RULE = (
    "The alias 'champion' moves to a version only when `evaluate` has measured it on a named validation set and "
    "its figure is greater, by more than the minimum gain, than the figure that the present champion has on "
    "the same set (equal data fingerprint). The first version with an evaluation becomes champion. A champion "
    "measured on another set only keeps the alias, unless the move is forced. Generators and samplers, which "
    "`evaluate` does not measure: the newest version is champion."
)


@dataclass(frozen=True)
class Decision:
    """What became of an evaluated version.

    promoted: whether the alias moved to it. champion: the version that holds the alias now.
    previous: the version that held it before, or None. reason: one sentence.
    """

    name: str
    version: str
    promoted: bool
    champion: str
    previous: str | None
    reason: str

    def __str__(self) -> str:
        if self.promoted:
            return f"champion of {self.name} is now version {self.version}: {self.reason}"
        return f"champion of {self.name} stays {self.champion or 'unset'}: {self.reason}"


def evaluation_tag(metric: str, data: str) -> str:
    """The version tag that holds the figure of `metric` on the data set with fingerprint `data`."""
    return safe_key(f"raygseg.evaluation.{metric}.{data}")


def promote(
    name: str,
    version: str,
    *,
    metric: str,
    value: float,
    data: str,
    tracking_uri: str = "",
    minimum_gain: float = 0.0,
    force: bool = False,
) -> Decision:
    """Record the evaluation of a version, decide by `RULE` and move the alias if it says so.

    Args:
        metric: name of the figure (foreground mIoU); greater is better.
        data: fingerprint of the validation set.
        force: let a finite figure take the alias from a champion that was measured on other sets only.

    Raises RegistryError (unknown model or version) or MissingEnvironmentError (no server).
    """
    uri = resolve_tracking_uri(tracking_uri)
    client = connect(uri)
    with plain_errors(uri, f"promoting models:/{name}/{version}"):
        client.get_model_version(name, version)
        champion = _champion(client, name)
        tags = {} if champion is None else dict(client.get_model_version(name, champion).tags)
        promoted, reason = decide(version, champion, tags, metric, value, data, minimum_gain, force)
        client.set_model_version_tag(name, version, evaluation_tag(metric, data), repr(float(value)))
        return _carry_out(client, name, version, champion, promoted, reason)


def crown_newest(name: str, version: str, tracking_uri: str = "") -> Decision:
    """Give the alias to the newest version of a generator or sampler, which no evaluation measures."""
    uri = resolve_tracking_uri(tracking_uri)
    client = connect(uri)
    with plain_errors(uri, f"promoting models:/{name}/{version}"):
        champion = _champion(client, name)
        newer = champion is None or int(version) > int(champion)
        reason = f"version {version} is {'the newest' if newer else 'not newer'}; no evaluation measures its kind."
        return _carry_out(client, name, version, champion, newer, reason)


def _champion(client: MlflowClient, name: str) -> str | None:
    held = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if held is None else str(held)


def _carry_out(
    client: MlflowClient, name: str, version: str, champion: str | None, promoted: bool, reason: str
) -> Decision:
    """Move the alias if so decided, and keep the decision with its reason on the versions."""
    if promoted:
        client.set_registered_model_alias(name, CHAMPION, version)
        if champion is not None:
            note = f"gave the alias to version {version}: {reason}"
            client.set_model_version_tag(name, champion, "raygseg.promotion.lost", note)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for key, text in (("decision", "promoted" if promoted else "stays"), ("reason", reason), ("time", when)):
        client.set_model_version_tag(name, version, f"raygseg.promotion.{key}", text)
    return Decision(name, version, promoted, version if promoted else champion or "", champion, reason)


def decide(
    version: str,
    champion: str | None,
    champion_tags: Mapping[str, str],
    metric: str,
    value: float,
    data: str,
    minimum_gain: float = 0.0,
    force: bool = False,
) -> tuple[bool, str]:
    """(whether the alias moves to `version`, the reason in a sentence): `RULE` as a pure function."""
    figure = f"{metric} {value:.4f} on data {data[:12]}"
    if not math.isfinite(value):
        return False, f"version {version} has no finite {metric} on data {data[:12]}, so it cannot lead."
    if champion is None:
        return True, f"version {version} ({figure}) is the first with an evaluation."
    if champion == version:
        return False, f"version {version} is champion already; its {figure} is recorded."
    if not any(key.startswith("raygseg.evaluation.") for key in champion_tags):
        return True, f"champion {champion} was never evaluated; version {version} has {figure}."
    recorded = champion_tags.get(evaluation_tag(metric, data))
    if recorded is None:
        if force:
            return True, f"forced: champion {champion} was not measured on this data; version {version} has {figure}."
        return False, (
            f"champion {champion} has no {metric} on data {data[:12]}, so the two cannot be compared; "
            "evaluate it on this set, or force the move."
        )
    best = float(recorded)
    if value > best + minimum_gain:
        gain = f"minimum gain {minimum_gain:g}"
        return True, f"version {version} has {figure}, champion {champion} had {best:.4f} ({gain})."
    return False, (
        f"version {version} has {figure}, not more than champion {champion}'s {best:.4f} plus the minimum gain "
        f"{minimum_gain:g}."
    )
