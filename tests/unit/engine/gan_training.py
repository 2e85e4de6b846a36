"""The real GAN recipe at 8 px with everything live: augmentation, mixing, R1 and path length, EMA, w_avg."""

from __future__ import annotations

from raygseg.config.schema import GanConfig
from raygseg.data.sources import open_pictures
from raygseg.data.streams import PictureStream
from raygseg.interfaces import Recipe, Stream
from raygseg.methods.stylegan2.training import build_recipe

CONFIG = {
    "name": "equality",
    "seed": 5,
    "data": {"source": "toy://default?count=40&seed=0", "resolution": 8},
    "schedule": {"total_kimg": 0.08, "batch_size": 8, "micro_batch": 4},
    "generator": {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64, "channel_max": 8},
    "loss": {"r1_interval": 2, "path_interval": 2, "style_mixing_prob": 0.9},
    "augment": {"mode": "ada", "p": 0.5, "interval": 2, "ada_kimg": 0.5},
}


def gan(kimg: float = 0.08) -> tuple[Recipe, Stream]:
    config = GanConfig.model_validate({**CONFIG, "schedule": {**CONFIG["schedule"], "total_kimg": kimg}})
    pictures = open_pictures(config.data.source, config.data.resolution)
    return build_recipe(config), PictureStream(pictures, config.seed, config.data.flip)
