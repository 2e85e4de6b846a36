"""Noise as an unknown: which maps, how they are kept noise, and that a generator takes them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.interfaces import NoisyGenerator, Rendering
from raygseg.nn.noise_maps import NoiseMaps, has_noise, neighbour_likeness, render_found
from raygseg.nn.projection import PerceptualDistance, ProjectionPlan, project
from raygseg.seeding import torch_rng
from tests.unit.tiny_networks import tiny_distance, tiny_generator


class Quiet:
    """A generator without noise inputs."""

    resolution, num_ws, w_dim, feature_layers = 16, 1, 2, ()

    def latents(self, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
        return torch.stack([torch.randn(1, 2, generator=torch_rng(s, "latent")) for s in seeds])

    def render(self, ws: Tensor, noise_seeds: Sequence[int] | None = None, layers: Sequence[str] = ()) -> Rendering:
        return Rendering(ws[:, :, :1, None].expand(-1, 3, 16, 16), {})


def test_white_noise_has_no_neighbours_alike_and_pictures_have() -> None:
    white = torch.randn(2, 1, 64, 64, generator=torch_rng(0, "noise"))
    smooth = F.interpolate(white[..., :8, :8], size=64, mode="bilinear")
    assert neighbour_likeness(white).shape == (2, 8)  # 64, 32, 16, 8 px, two directions
    assert neighbour_likeness(white)[:, :4].abs().max() < 0.1
    assert neighbour_likeness(smooth)[:, :4].min() > 0.2


def test_renormalising_gives_back_mean_and_spread_a_picture() -> None:
    unknown = NoiseMaps(tiny_generator(), 2)
    assert {maps.shape[-1] for maps in unknown.maps.values()} == {8, 16}  # 4 px maps stay as they are
    before = [(m.mean((2, 3)), m.std((2, 3))) for m in unknown.found().values()]
    assert unknown.penalty().tolist() == [0, 0]
    with torch.no_grad():
        for maps in unknown.parameters():
            maps[1] = maps[1].cumsum(-1) + 5
    assert unknown.penalty()[0] == 0 and unknown.penalty()[1] > 1
    unknown.renormalise()
    for maps, (mean, std) in zip(unknown.found().values(), before, strict=True):
        torch.testing.assert_close(maps.mean((2, 3)), mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(maps.std((2, 3)), std)


def test_given_maps_are_used_and_the_others_stay_constant() -> None:
    generator = tiny_generator()
    assert isinstance(generator, NoisyGenerator)
    ws, fixed = generator.latents([1, 2]), generator.fixed_noise()
    plain = generator.render(ws).images
    given = {i: maps.expand(2, -1, -1, -1) for i, maps in enumerate(fixed)}
    torch.testing.assert_close(render_found(generator, ws, given).images, plain)
    torch.testing.assert_close(render_found(generator, ws, {2: given[2]}).images, plain)
    assert not torch.allclose(render_found(generator, ws, {2: -given[2]}).images, plain, atol=1e-3)
    seeds = generator.noise([7, 8])
    torch.testing.assert_close(
        render_found(generator, ws, dict(enumerate(seeds))).images, generator.render(ws, [7, 8]).images
    )


def test_noise_last_finds_what_the_codes_cannot() -> None:
    generator, distance = tiny_generator(), tiny_distance()
    images = generator.render(generator.latents([3, 4]), [3, 4]).images
    plain = project(generator, distance, images, plan=ProjectionPlan(40, noise_share=0))
    noisy = project(generator, distance, images, plan=ProjectionPlan(40, noise_share=0.5, noise_lr=0.2))
    assert plain.noise == {} and set(noisy.noise) == {1, 2, 3, 4}
    assert (noisy.squared_errors < 0.8 * plain.squared_errors).all()
    again = render_found(generator, noisy.ws, noisy.noise).images
    torch.testing.assert_close((again - images).square().mean((1, 2, 3)), noisy.squared_errors)
    without = generator.render(noisy.ws).images
    assert ((without - images).square().mean((1, 2, 3)) > noisy.squared_errors).all()


def test_the_penalty_keeps_the_picture_out_of_the_noise() -> None:
    generator, distance = tiny_generator(), tiny_distance()
    images = F.interpolate(torch.eye(4)[None, None], size=16).expand(1, 3, -1, -1) * 2 - 1
    likeness = []
    for weight in (0.0, 100.0):
        plan = ProjectionPlan(40, noise_share=0.8, noise_lr=0.3, noise_penalty=weight)
        noise = project(generator, distance, images, plan=plan).noise
        likeness.append(max(float(neighbour_likeness(m)[:, :2].abs().max()) for m in noise.values()))
    assert likeness[1] < 0.7 * likeness[0]


def test_a_generator_without_noise_is_projected_without() -> None:
    assert not has_noise(Quiet()) and has_noise(tiny_generator())
    distance = PerceptualDistance(lambda images: {"pixels": images + 2})
    found = project(Quiet(), distance, torch.zeros(1, 3, 16, 16), plan=ProjectionPlan(10, noise_share=0.5))
    assert found.noise == {}
    with pytest.raises(AssertionError, match="another generator"):
        render_found(Quiet(), found.ws, {0: torch.zeros(1, 1, 16, 16)})
