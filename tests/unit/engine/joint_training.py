"""The real joint recipe at 8 px with everything live: both augmentations, mixing, both R1, path length, EMA, w_avg."""

from __future__ import annotations

from typing import Any

from raygseg.config.joint_gan import JointGanConfig
from raygseg.interfaces import Recipe, Stream
from raygseg.pipelines.trainables import make_training

CONFIG: dict[str, Any] = {
    "kind": "joint-gan",
    "name": "joint-equality",
    "seed": 5,
    "data": {"source": "toy://default?count=40&seed=0", "resolution": 8},
    "labelled": "toy://default?count=5&seed=3",
    "labelled_flip": True,
    "schedule": {"total_kimg": 0.08, "batch_size": 8, "micro_batch": 4},
    "generator": {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64, "channel_max": 8},
    "label_discriminator": {"width": 4, "scales": 2},
    "loss": {
        "r1_interval": 2,
        "path_interval": 2,
        "style_mixing_prob": 0.9,
        "feature_matching": "statistics",
        "shared_fakes": False,
    },
    "augment": {"mode": "ada", "p": 0.5, "interval": 2, "ada_kimg": 0.5},
    "label_augment": {"mode": "ada", "p": 0.3, "interval": 2, "ada_kimg": 0.5},
}


def settings(**changes: Any) -> JointGanConfig:
    """The configuration with sections updated and other keys replaced."""
    merged = {
        key: {**CONFIG.get(key, {}), **value} if isinstance(value, dict) else value for key, value in changes.items()
    }
    return JointGanConfig.model_validate({**CONFIG, **merged})


def joint(kimg: float = 0.08) -> tuple[Recipe, Stream]:
    training = make_training(settings(schedule={"total_kimg": kimg}).model_dump(mode="json"))
    return training.recipe, training.stream
