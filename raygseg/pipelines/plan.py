"""What a run would do, without doing it: `--dry-run`.

Networks are built to be counted; data is not read. Memory is what parameters, gradients, optimisers
and the average take, and for a GAN what the hungriest phase of a step adds for one micro-batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raygseg.config.encoder import EncoderConfig
from raygseg.config.episodes import EpisodesConfig
from raygseg.config.joint_gan import JointGanConfig
from raygseg.config.panet import PanetConfig
from raygseg.config.schema import (
    BackboneHeadConfig,
    CompareConfig,
    EvaluateConfig,
    GanConfig,
    GenerateConfig,
    HeadConfig,
    SegmenterConfig,
)
from raygseg.config.sections import AdversarialRun, Run
from raygseg.errors import RaygsegError
from raygseg.labels import LabelSpace
from raygseg.pipelines import run_folder

if TYPE_CHECKING:
    from torch import nn

BYTES = 4  # weights, gradients and optimiser states are float32 whatever the precision of the convolutions
COPIES_TRAINED = 6  # weight, gradient, flat gradient, two moments of Adam, average
# On a CPU, measured at 32, 64 and 128 px: a process before it trains, alone and as a Ray worker, and what the
# allocator holds for a byte that lives at the peak, since it keeps the maps of all phases in pieces that differ.
PROCESS_BYTES = {"in process": 330 * 2**20, "Ray": 650 * 2**20}
HEAP_FACTOR = 2.1
COPIES_SAVED = 4  # of a checkpoint: weight, two moments, average
UNKNOWN = "known when its input is there"


def plan(config: Run) -> dict[str, Any]:
    """Facts by name: parameter counts, steps, memory, places. Raises ConfigError as `train` would."""
    if isinstance(config, GenerateConfig):
        shards = -(-config.num_pairs // config.rows_per_shard)
        return {"pairs": config.num_pairs, "shards": shards, "mode": config.mode, "output": config.output}
    if isinstance(config, EvaluateConfig):
        output = config.output or config.runtime.output or f"runs/{config.name}"
        return {"model": config.model, "data": config.data, "output": output}
    if isinstance(config, EpisodesConfig):
        return _episodes(config)
    if isinstance(config, CompareConfig):
        return _comparison(config)
    from raygseg.pipelines.train import check_shares, data_sources, total_kimg

    check_shares(config)
    folder = run_folder.place_of(config)
    facts = {**_networks(config), **_steps(config, total_kimg(config)), "data": data_sources(config)}
    places = {"run": folder, "bundle": f"{folder}/bundle", "registered as": config.runtime.register_as or config.name}
    return {**facts, "output": places}


def _episodes(config: EpisodesConfig) -> dict[str, Any]:
    return {
        "model": config.model or "VGG-16 without training",
        "data": config.data,
        "protocol": config.protocol.described(),
        "episodes": config.episodes * config.runs * len(config.shots),
        "features in memory": f"{config.memory_mb} MiB a worker",
        "output": config.output or run_folder.place_of(config),
    }


def _comparison(config: CompareConfig) -> dict[str, Any]:
    from raygseg.pipelines.compare_arms import chosen_arms

    arms = chosen_arms(config)
    whole = bool(config.validation or config.tests)
    trainings = config.draws * len(arms) * (config.folds + whole)
    return {
        "arms": arms,
        "decided by": "validation" if config.validation else f"{config.folds} folds",
        "trainings": trainings,
        "kimg in all": trainings * config.schedule.total_kimg,
        "data": {"labelled": config.labelled, "validation": config.validation or "none", **config.tests},
        "output": run_folder.place_of(config),
    }


def _steps(config: Run, kimg: float) -> dict[str, Any]:
    if isinstance(config, HeadConfig | BackboneHeadConfig):
        batch = config.training.batch_size
    else:
        schedule = getattr(config, "schedule", None)
        batch = schedule.batch_size if schedule is not None else 1
    steps = -(-round(kimg * 1000) // batch)
    runtime = config.runtime
    where = "this process" if runtime.in_process else f"{runtime.workers} Ray worker{'s' * (runtime.workers > 1)}"
    checkpoints = max(1, round(kimg / runtime.checkpoint_kimg))
    return {"kimg": kimg, "steps": steps, "runs in": where, "checkpoints": checkpoints}


def _networks(config: Run) -> dict[str, Any]:
    """Parameters by network and the memory they need."""
    try:
        networks = _built(config)
    except RaygsegError as error:
        return {"parameters": f"{UNKNOWN}: {error.message}"}
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    total = sum(counts.values())
    standing = total * BYTES * COPIES_TRAINED
    memory = {"training without activations": f"{_mib(standing)} a worker"}
    if isinstance(config, AdversarialRun):
        phase, peak = _peak(config)
        memory[f"activations at their peak ({phase})"] = f"{_mib(peak)} a worker"
        process = PROCESS_BYTES["in process" if config.runtime.in_process else "Ray"]
        memory["in all on a GPU"] = _mib(standing + peak)
        memory["in all on a CPU"] = _mib(process + standing + HEAP_FACTOR * peak)
    memory["a checkpoint"] = _mib(total * BYTES * COPIES_SAVED)
    return {"parameters": counts, "memory": memory}


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _peak(config: AdversarialRun) -> tuple[str, int]:
    """The phase that takes the most memory for one micro-batch, and how many bytes."""
    import torch

    from raygseg.engine.memory import step_peak_bytes
    from raygseg.methods.semanticgan import training as joint
    from raygseg.methods.stylegan2 import training as plain

    count, resolution = config.schedule.micro, config.data.resolution
    images = torch.empty(count, 3, resolution, resolution, dtype=torch.uint8, device="meta")
    data = {"images": images}
    if isinstance(config, JointGanConfig):
        recipe: plain.StyleGAN2Recipe = joint.build_recipe(config, _label_space(config), "meta")
        data |= {"labelled_images": images, "labels": images[:, 0]}
    else:
        recipe = plain.build_recipe(config, "meta")
    peaks = step_peak_bytes(recipe, data)
    return max(peaks.items(), key=lambda item: item[1])


def _built(config: Run) -> dict[str, nn.Module]:
    """The networks that are trained. RaygsegError where an input that decides their shape is not there."""
    if isinstance(config, GanConfig):
        from raygseg.methods.stylegan2.training import build_networks

        return dict(zip(("generator", "discriminator"), build_networks(config), strict=True))
    if isinstance(config, JointGanConfig):
        from raygseg.methods.semanticgan.training import build_recipe

        networks = build_recipe(config, _label_space(config)).modules()
        return {name: network for name, network in networks.items() if name != "average"}
    if isinstance(config, HeadConfig):
        from raygseg.methods.repurposegan.heads import build_head
        from raygseg.methods.repurposegan.samples import read_samples
        from raygseg.pipelines.kinds import load_generator

        generator = load_generator(config.generator, config.runtime.tracking_uri)
        classes = read_samples(config.samples).labels.num_classes
        return {"head": build_head(config.head, generator.feature_layers, classes)}
    if isinstance(config, EncoderConfig):
        from raygseg.methods.semanticgan.encoder_training import build_encoder
        from raygseg.pipelines.encoder_run import open_joint

        return {"encoder": build_encoder(config, open_joint(config.generator, config.runtime.tracking_uri).generator)}
    if isinstance(config, BackboneHeadConfig):
        from raygseg.methods.repurposegan.backbone_training import build_backbone_head, open_trunk

        return {"head": build_backbone_head(config, open_trunk(config), _classes(config))}
    if isinstance(config, PanetConfig):
        from raygseg.methods.panet.training import build_network as build_few_shot

        return {"network": build_few_shot(config, blank=True)}
    assert isinstance(config, SegmenterConfig)
    from raygseg.methods.student.training import build_network

    return {"network": build_network(config, _classes(config))}


def _classes(config: SegmenterConfig | BackboneHeadConfig) -> int:
    """Number of classes, from the manifest of the pairs or from the labelled source."""
    from raygseg.data.pair_set import PairSet

    if isinstance(config, SegmenterConfig) and config.pairs:
        return PairSet.open(config.pairs).labels.num_classes
    return _label_space(config).num_classes


def _label_space(config: SegmenterConfig | BackboneHeadConfig | JointGanConfig) -> LabelSpace:
    """Of the labelled source."""
    from raygseg.data.sources import open_labelled

    resolution = config.data.resolution if isinstance(config, JointGanConfig) else config.resolution
    bad = config.data.max_bad_fraction if isinstance(config, JointGanConfig) else config.max_bad_fraction
    return open_labelled(config.labelled, resolution, bad, limit=1).labels
