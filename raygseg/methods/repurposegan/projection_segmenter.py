"""Segment real pictures by projection: find the code, read the features of the same forward pass, apply the head.

RepurposeGAN's first route (spec 1.1a). It needs many passes a picture and works inside the generator's domain
only, so a gate refuses what the generator cannot draw: such a picture is background all over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from raygseg.bundle import Bundle
from raygseg.data.picture_files import resize_picture
from raygseg.errors import CheckpointError, ConfigError, DataError
from raygseg.interfaces import Generator, Picture, Segmentation
from raygseg.labels import LabelSpace
from raygseg.methods.repurposegan.heads import LabelHead
from raygseg.methods.repurposegan.sampler import resample
from raygseg.methods.student.segmenter import enlarge
from raygseg.nn.framing import FULL, Framing, Square, put_back, see
from raygseg.nn.half import compact
from raygseg.nn.noise_maps import render_found
from raygseg.nn.projection import LatentSpread, PerceptualDistance, Projection, ProjectionPlan, latent_spread, project
from raygseg.nn.projection_gate import Gate
from raygseg.nn.stored_weights import fit_weights
from raygseg.nn.template_alignment import Template

METHOD = "projection"
Fit = Literal["squash", "centre"]
NETWORKS = ("generator", "head", "features")


class Answer(NamedTuple):
    """probabilities: [N, K, R, R]; accepted: a bool a picture; found: the projections."""

    probabilities: Tensor
    accepted: list[bool]
    found: Projection


class _View(NamedTuple):
    """image: [1, 3, R, R]; valid: [1, 1, R, R]; square: of the generator, where a template found it."""

    image: Tensor
    valid: Tensor
    square: Square | None = None


class ProjectionSegmenter:
    """Implements `interfaces.Segmenter`; what a picture gets does not depend on its batch.

    Args:
        generator: frozen, in evaluation mode, framed as the pictures are.
        head: reads the generator's features.
        labels: the head's classes.
        distance: for projection and gate.
        plan: of projection; also the gate's.
        gate: refuses; None accepts everything.
        fit: how a picture becomes the generator's square: squashed whole, or its central square, outside of
            which all is background.
        batch_size: pictures a projection.
        template: finds the generator's square on each picture, in place of `fit`.

    Attributes:
        find: another way to project (images, valid), such as one that keeps what it found; None: `project`.
        seen, refused: how many pictures, so far.
    """

    def __init__(
        self,
        generator: Generator,
        head: LabelHead,
        labels: LabelSpace,
        distance: PerceptualDistance,
        plan: ProjectionPlan,
        gate: Gate | None = None,
        fit: Fit = "squash",
        batch_size: int = 8,
        template: Template | None = None,
    ) -> None:
        if head.num_classes != labels.num_classes:
            raise ConfigError(
                f"the head has {head.num_classes} classes, the label space {labels.num_classes}",
                "use the labels.json that the head was trained with",
            )
        if gate is not None and (gate.plan, gate.features) != (plan, distance.name):
            raise ConfigError("the gate was calibrated under another plan or feature network", "calibrate it again")
        self.generator, self.head, self.labels = generator, head.eval().requires_grad_(False), labels
        self.distance, self.plan, self.gate = distance, plan, gate
        self.fit, self.batch_size, self.template = fit, batch_size, template
        self.find: Callable[[Tensor, Tensor], Projection] | None = None
        self.resolution = generator.resolution
        self.seen = self.refused = 0
        self._spread: LatentSpread | None = None

    @property
    def coverage(self) -> float:
        """Share of the pictures seen so far that the gate accepted; 1 before the first."""
        return 1 - self.refused / self.seen if self.seen else 1.0

    @property
    def background(self) -> int:
        return self.labels.background or 0

    def answer(self, images: Tensor, valid: Tensor | None = None) -> Answer:
        """Project pictures [N, 3, R, R] in [-1, 1], judge them, and read the labels of those accepted.

        valid: [N, 1, R, R], 0 where a picture does not reach.
        """
        found = self._project(images, torch.ones_like(images[:, :1]) if valid is None else valid)
        accepted = [True] * len(images) if self.gate is None else self.gate.judge(found)
        side = self.head.resolution
        probabilities = images.new_zeros(len(images), self.labels.num_classes, side, side)
        probabilities[:, self.background] = 1.0
        if rows := [i for i, good in enumerate(accepted) if good]:
            probabilities[rows] = self._read(found.rows(rows)).to(probabilities)
        self.seen += len(images)
        self.refused += accepted.count(False)
        return Answer(probabilities, accepted, found)

    def _project(self, images: Tensor, valid: Tensor) -> Projection:
        if self.find is not None:
            return self.find(images, valid)
        if self._spread is None:
            self._spread = latent_spread(self.generator)
        device = self._spread.mean.device
        images, valid = images.to(device), valid.to(device)
        with torch.enable_grad():
            return project(self.generator, self.distance, images, valid, self.plan, spread=self._spread)

    @torch.no_grad()
    def _read(self, found: Projection) -> Tensor:
        rendering = render_found(self.generator, found.ws, found.noise, self.head.layer_names)
        return self.head.predict(rendering.features).probabilities

    def probabilities(self, images: Tensor) -> Tensor:
        """[N, 3, R, R] in [-1, 1] -> [N, K, R, R]; refused pictures are background."""
        parts = [self.answer(part).probabilities for part in images.split(self.batch_size)]
        return resample(torch.cat(parts), self.resolution)

    def predict(self, pictures: Sequence[Picture]) -> list[Segmentation]:
        """Label map and confidence of each picture at its own size, in order; refused ones are marked.

        Raises DataError for something that is not uint8 [H, W, 3]; says which.
        """
        answers: list[Segmentation] = []
        for first in range(0, len(pictures), self.batch_size):
            group = pictures[first : first + self.batch_size]
            views = [self._view(_checked(picture, first + i)) for i, picture in enumerate(group)]
            answer = self.answer(torch.cat([v.image for v in views]), torch.cat([v.valid for v in views]))
            for picture, view, maps, good in zip(
                group, views, answer.probabilities.cpu(), answer.accepted, strict=True
            ):
                answers.append(self._placed(picture, maps, view.square) if good else self._nothing(picture))
        return answers

    def _view(self, picture: Picture) -> _View:
        """The picture as the generator would show it."""
        if self.template is not None:
            photo = _signed(picture)
            square, _ = self.template.locate(self.distance.network, photo)
            return _View(*see(photo, square, framing_of(self.generator), self.resolution), square)
        if self.fit == "centre":
            rows, columns = central_square(picture.shape[0], picture.shape[1])
            picture = np.ascontiguousarray(picture[rows, columns])
        image = _signed(resize_picture(picture, self.resolution))
        return _View(image, torch.ones_like(image[:, :1]))

    def _placed(self, picture: Picture, maps: Tensor, square: Square | None) -> Segmentation:
        """The head's answer at the picture's own size."""
        height, width = picture.shape[:2]
        if square is not None:
            laid, near = put_back(maps[None], square, framing_of(self.generator), height, width)
            answer, far = enlarge(laid[0], height, width), ~near.numpy()
            answer.label_map[far], answer.confidence[far] = self.background, 0
            return answer
        if self.fit == "squash" or height == width:
            return enlarge(maps, height, width)
        rows, columns = central_square(height, width)
        whole, inside = self._nothing(picture), enlarge(maps, min(height, width), min(height, width))
        whole.label_map[rows, columns] = inside.label_map
        whole.confidence[rows, columns] = inside.confidence
        return whole._replace(refused=False)

    def _nothing(self, picture: Picture) -> Segmentation:
        shape = picture.shape[:2]
        return Segmentation(np.full(shape, self.background, np.uint8), np.zeros(shape, np.uint8), True)

    # --- bundles ---------------------------------------------------------------------------------

    def to_bundle(self, generator_build: Mapping[str, Any], features_build: Mapping[str, Any], **facts: Any) -> Bundle:
        """The segmenter as a bundle: three networks, how to build them, plan and gate.

        Args:
            generator_build, features_build: what the callables given to `from_bundle` need.
            facts: for the card.
        """
        networks = dict(zip(NETWORKS, (self.generator, self.head, self.distance.network), strict=True))
        tensors = {
            f"{name}.{key}": compact(t)
            for name, net in networks.items()
            for key, t in _module(net).state_dict().items()
        }
        if self.template is not None:
            tensors |= {f"template.{key}": tensor for key, tensor in self.template.tensors().items()}
        build = {
            "method": METHOD,
            "generator": dict(generator_build),
            "head": self.head.build,
            "features": {**features_build, "name": self.distance.name},
            "plan": asdict(self.plan),
            "gate": None if self.gate is None else self.gate.to_dict(),
            "fit": self.fit,
            "resolution": self.resolution,
            "template": None if self.template is None else self.template.resolution,
        }
        return Bundle("segmenter", build, tensors, self.labels, {}, facts)

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        build_generator: Callable[[Mapping[str, Any]], Generator],
        build_features: Callable[[Mapping[str, Any]], nn.Module],
        device: torch.device | str = "cpu",
    ) -> ProjectionSegmenter:
        """Rebuild from a bundle. CheckpointError where it is of another kind or its weights do not fit."""
        if bundle.kind != "segmenter" or bundle.build.get("method") != METHOD or bundle.labels is None:
            raise CheckpointError(
                f"the bundle is a {bundle.kind}, not a segmenter by projection", "name one that `project` wrote"
            )
        build = bundle.build
        generator, head = build_generator(build["generator"]), LabelHead(**build["head"])
        features = build_features(build["features"])
        for name, net in zip(NETWORKS, (_module(generator), head, features), strict=True):
            fit_weights(net, bundle.tensors, name, f"{name}.")
            net.eval().requires_grad_(False).to(device)
        gate = None if build["gate"] is None else Gate.from_dict(build["gate"], "gate of the bundle")
        distance = PerceptualDistance(features, build["features"]["name"])
        template = None
        if build.get("template") is not None:
            kept = {k.removeprefix("template."): v for k, v in bundle.tensors.items() if k.startswith("template.")}
            template = Template.from_tensors(kept, build["template"])
        plan = ProjectionPlan(**build["plan"])
        return cls(generator, head, bundle.labels, distance, plan, gate, build["fit"], template=template)


def framing_of(generator: Generator) -> Framing:
    """The window that the generator shows; the whole picture for one that has no framing."""
    return getattr(generator, "framing", FULL)


def _checked(picture: Picture, place: int) -> Picture:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise DataError(
            f"picture {place} has dtype {picture.dtype} and shape {picture.shape}",
            "give uint8 arrays [height, width, 3] in RGB",
        )
    return picture


def _signed(picture: Picture) -> Tensor:
    """uint8 [H, W, 3] -> [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def central_square(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the largest square in the middle."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def _module(network: object) -> nn.Module:
    assert isinstance(network, nn.Module)
    return network
