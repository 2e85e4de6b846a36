"""Training a label head from k labelled samples of a generator (spec 1.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raygseg.config.schema import HeadConfig
from raygseg.errors import DataError
from raygseg.interfaces import Draws, Generator, MicroBatch, Phase, PhaseLoss
from raygseg.methods.repurposegan.heads import LabelHead, build_head
from raygseg.methods.repurposegan.samples import LabelledSamples
from raygseg.nn.hypercolumn import channel_statistics
from raygseg.nn.noise_maps import render_found
from raygseg.nn.schedules import cosine_decay, set_lr
from raygseg.nn.segmentation_loss import class_weights, soft_cross_entropy, winner
from raygseg.seeding import derive_seed, numpy_rng

FINAL_LR_FRACTION = 0.05
MEMBER_PIXEL_SHARE = 0.5  # each member of an ensemble learns from its own half of the pixels of a step
Features = dict[str, Tensor]


class SampleStream:
    """The labelled samples, shuffled anew every epoch (`interfaces.Stream`).

    `micro_batch` gives {"index": int64 [n], "labels": uint8 [n, R, R]} at the head's grid.
    """

    def __init__(self, samples: LabelledSamples, resolution: int, seed: int) -> None:
        if len(samples) == 0:
            raise DataError("no labelled samples", "label at least one exported picture")
        self._masks = torch.from_numpy(samples.masks_at(resolution))
        self._seed = seed

    def micro_batch(self, first: int, count: int) -> dict[str, Tensor]:
        index = torch.tensor([self._index(n) for n in range(first, first + count)])
        return {"index": index, "labels": self._masks[index]}

    def _index(self, number: int) -> int:
        epoch, place = divmod(number, len(self._masks))
        return int(numpy_rng(self._seed, "sample-order", epoch).permutation(len(self._masks))[place])


class HeadRecipe:
    """Implements `interfaces.Recipe`. Data: `SampleStream`.

    With `training.resample_noise` the features of a sample are rendered anew at every step, from the
    same latent with fresh per-layer noise, so that the head learns what the noise does not change;
    otherwise each sample's maps are rendered once and kept at their own grids in half precision,
    with `training.style_variants` also under the fine styles of other pictures: one sample in many colours.

    Args:
        config: the run.
        generator: frozen; its weights are not touched.
        samples: latents and masks.
    """

    name = "head"

    def __init__(self, config: HeadConfig, generator: Generator, samples: LabelledSamples) -> None:
        self.config, self.generator, self.samples = config, generator, samples
        self.seed = config.seed
        self.batch_size = self.micro_batch = config.training.batch_size
        self.total_images = config.training.steps * self.batch_size
        psi = config.truncation_psi if samples.truncation_psi is None else samples.truncation_psi
        with torch.no_grad():
            self.ws = generator.latents(samples.seeds, psi) if samples.ws is None else samples.ws
        self.device = self.ws.device
        self.head = self._build_head().to(self.device)
        self.head.project.standardise(*channel_statistics(self.sample_features(), self.head.layers))
        shares = torch.from_numpy(samples.class_shares()).float()
        self.weights = class_weights(shares, config.training.class_balance).to(self.device)
        training = config.training
        adam = torch.optim.Adam(self.head.parameters(), lr=training.lr, weight_decay=training.weight_decay)
        self.phases = [Phase("head", [self.head], adam, self._loss)]
        self._kept: dict[tuple[int, int], Features] = {}

    def _build_head(self) -> LabelHead:
        with torch.random.fork_rng(devices=[]):  # initialisation draws from torch's global generator
            torch.manual_seed(derive_seed(self.seed, "init"))
            return build_head(self.config.head, self.generator.feature_layers, self.samples.labels.num_classes)

    # --- features --------------------------------------------------------------------------------

    @torch.no_grad()
    def _render(self, index: Sequence[int], noise_seeds: Sequence[int]) -> Features:
        return self.generator.render(self.ws[list(index)], noise_seeds, self.head.layer_names).features

    @torch.no_grad()
    def _own(self, index: Sequence[int]) -> Features:
        """The maps behind the labelled pictures themselves: with the noise of export, or of projection."""
        samples, rows = self.samples, list(index)
        if samples.ws is None:
            return self._render(rows, [samples.seeds[i] for i in rows])
        noise = {i: maps[rows] for i, maps in samples.noise.items()}
        return render_found(self.generator, self.ws[rows], noise, self.head.layer_names).features

    @torch.no_grad()
    def _variant(self, index: int, variant: int) -> Features:
        """A sample's own maps; past variant 0 the fine styles are another picture's, which changes no part's place."""
        if variant == 0:
            return self._own([index])
        fine = round(self.config.training.style_from * self.ws.shape[1])
        other = self.generator.latents([derive_seed(self.seed, "head/style", index, variant) % 2**31])
        ws = torch.cat([self.ws[[index], :fine], other[:, fine:].to(self.ws)], dim=1)
        noise = {i: maps[[index]] for i, maps in self.samples.noise.items()}
        return render_found(self.generator, ws, noise, self.head.layer_names).features

    def sample_features(self, count: int = 1) -> Iterator[Features]:
        """The maps of `count` labelled samples at a time, with the noise under which they were exported."""
        for first in range(0, len(self.samples), count):
            yield self._own(range(first, min(first + count, len(self.samples))))

    def _features(self, index: list[int], draws: Draws) -> Features:
        if self.config.training.resample_noise:
            noise = torch.randint(2**62, (len(index),), generator=draws.rng("head/noise")).tolist()
            return self._render(index, noise)
        count = self.config.training.style_variants
        variants = torch.randint(count, (len(index),), generator=draws.rng("head/variant")).tolist()
        wanted = list(zip(index, variants, strict=True))
        for which in wanted:
            if which not in self._kept:
                self._kept[which] = {name: m.half() for name, m in self._variant(*which).items()}
        kept = [self._kept[which] for which in wanted]
        return {name: torch.cat([maps[name] for maps in kept]).float() for name in self.head.layer_names}

    # --- the step --------------------------------------------------------------------------------

    def _loss(self, batch: MicroBatch) -> PhaseLoss:
        """Cross-entropy of every member, class-balanced, over labelled pixels."""
        training = self.config.training
        decay = cosine_decay(batch.nimg, self.total_images, FINAL_LR_FRACTION)
        set_lr(self.phases[0].optimiser, training.lr * decay)
        labels = batch.data["labels"].to(self.device).long()
        logits = self.head(self._features(batch.data["index"].tolist(), batch.draws))
        valid = labels < self.head.num_classes
        targets = one_hot(labels, self.head.num_classes)
        seen = member_pixels(valid, self.head.members, batch.draws)
        loss = soft_cross_entropy(
            logits.flatten(0, 1),
            targets[:, None].expand_as(logits).flatten(0, 1),
            seen.flatten(0, 1),
            self.weights,
        )
        guess = winner(logits.detach().float().softmax(2).mean(1))
        accuracy = (guess == labels)[valid].float().mean()
        return PhaseLoss(loss, {"loss": loss.detach(), "pixel_accuracy": accuracy})

    def finish(self) -> LabelHead:
        """The head ready for use: batch-norm statistics measured on the samples, evaluation mode."""
        self.head.measure_norms(self.sample_features(self.batch_size))
        return self.head

    # --- what the engine asks --------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def end_step(self, step: int, nimg: int, statistics: Mapping[str, Tensor]) -> None:
        """Nothing is kept between steps but weights and optimiser."""

    def state_dict(self) -> dict[str, Any]:
        return {"modules": {"head": self.head.state_dict()}, "optimisers": {"head": self._adam.state_dict()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.head.load_state_dict(state["modules"]["head"])
        self._adam.load_state_dict(state["optimisers"]["head"])

    @property
    def _adam(self) -> torch.optim.Optimizer:
        return self.phases[0].optimiser

    def progress(self) -> dict[str, float]:
        return {"lr": float(self._adam.param_groups[0]["lr"])}


def member_pixels(valid: Tensor, members: int, draws: Draws) -> Tensor:
    """[N, R, R] -> [N, M, R, R], 1 where a member learns: different pixels keep the members of an ensemble apart."""
    every = valid[:, None].expand(-1, members, -1, -1).float()
    if members == 1:
        return every
    chance = torch.rand(every.shape, generator=draws.rng("head/pixels")).to(valid.device)
    return every * (chance < MEMBER_PIXEL_SHARE)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """[N, H, W] integers -> [N, K, H, W] floats; void (any index >= K) is 0 in every channel."""
    classes = torch.arange(num_classes, device=labels.device)
    return (labels[:, None] == classes[:, None, None]).float()


def build_recipe(config: HeadConfig, generator: Generator, samples: LabelledSamples) -> HeadRecipe:
    """The recipe that `train head` drives."""
    return HeadRecipe(config, generator, samples)
