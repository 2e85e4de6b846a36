"""NVIDIA's PyTorch networks and losses on the CPU, for comparison: `python -m ... '{"peer": ..., "case": [...]}'`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raygseg.benchmarks.support import parity_networks as parity
from raygseg.benchmarks.support import peers
from raygseg.benchmarks.support.parity_networks import Case, Inputs
from raygseg.methods.stylegan2.importers import layout
from raygseg.methods.stylegan2.importers.nvidia import discriminator_name, generator_name


class Nvidia:
    """stylegan2-ada-pytorch, or stylegan3 with its stylegan2 configuration. Implements `parity_networks.Peer`."""

    def __init__(self, name: str, case: Case) -> None:
        peers.enter(name)
        self.name, self.case = name, case
        self.persistence: Any = importlib.import_module("torch_utils.persistence")
        self.statistics: Any = importlib.import_module("torch_utils.training_stats")
        module: Any = importlib.import_module(
            "training.networks" if name == peers.NVIDIA_ADA else "training.networks_stylegan2"
        )
        torch.manual_seed(0)
        widths = {"channel_base": case.channel_base, "channel_max": case.channel_max, "num_fp16_res": 0}
        sizes = {"img_resolution": case.resolution, "img_channels": 3}
        synthesis = {**widths, "conv_clamp": None}
        if name == peers.NVIDIA_ADA:
            extra: dict[str, Any] = {"synthesis_kwargs": synthesis}
        else:
            extra = {**synthesis, "fused_modconv_default": "inference_only"}
        mapping = {"num_layers": case.mapping_layers}
        codes = {"z_dim": case.w_dim, "c_dim": 0, "w_dim": case.w_dim, "mapping_kwargs": mapping}
        self.G: Any = module.Generator(**codes, **sizes, **extra)
        self.D: Any = module.Discriminator(c_dim=0, **sizes, **widths, conv_clamp=None)
        parity.randomise(self.G.to(torch.float32), self.D.to(torch.float32))
        self.loss = self._loss()

    def _loss(self) -> Any:
        loss: Any = importlib.import_module("training.loss").StyleGAN2Loss
        networks = {"G": self.G}
        if self.name == peers.NVIDIA_ADA:
            networks = {"G_mapping": self.G.mapping, "G_synthesis": self.G.synthesis}
        options = {"style_mixing_prob": 0, "r1_gamma": parity.R1_GAMMA, "pl_weight": 1, "pl_batch_shrink": 1}
        made = loss(device=torch.device("cpu"), **networks, D=self.D, pl_decay=parity.PATH_DECAY, **options)
        return made

    def save(self, path: Path) -> None:
        snapshot = {"G": self.G, "D": self.D, "G_ema": self.G, "training_set_kwargs": {"path": "pictures"}}
        with open(path, "wb") as file:
            self.persistence.pickle.dump(snapshot, file)

    def codes(self, z: Tensor) -> Tensor:
        ws: Tensor = self.G.eval().mapping(z, None)
        return ws

    def render(self, ws: Tensor, noise: Sequence[Tensor] | None, fused: bool) -> tuple[Tensor, list[Tensor]]:
        self.G.eval()
        blocks = [getattr(self.G.synthesis, f"b{r}") for r in self.G.synthesis.block_resolutions]
        layers = [getattr(block, name) for block in blocks for name in ("conv0", "conv1") if hasattr(block, name)]
        maps: list[Tensor] = []
        hooks = [layer.register_forward_hook(lambda _, __, y: maps.append(y.detach().clone())) for layer in layers]
        mode = "const" if noise is None else "random"
        draws: AbstractContextManager[None] = nullcontext() if noise is None else peers.scripted(randn=noise)
        with draws:
            image = self.G.synthesis(ws, noise_mode=mode, fused_modconv=fused)
        for hook in hooks:
            hook.remove()
        return image, maps

    def truncated(self, z: Tensor, psi: float) -> Tensor:
        image: Tensor = self.G.eval()(z, None, truncation_psi=psi, noise_mode="const")
        return image

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.D(images, None)
        return logits

    def generator_loss(self, inputs: Inputs) -> Tensor:
        return self._phase("Gmain", inputs, "Loss/G/loss", inputs.noise)

    def path_length(self, inputs: Inputs) -> Tensor:
        self.loss.pl_mean.fill_(parity.PATH_MEAN)  # every call moves it
        return self._phase("Greg", inputs, "Loss/G/reg", inputs.noise, [inputs.path_noise])

    def discriminator_loss(self, inputs: Inputs) -> Tensor:
        return self._phase("Dmain", inputs, "Loss/D/loss", inputs.noise)

    def r1(self, inputs: Inputs) -> Tensor:
        return self._phase("Dreg", inputs, "Loss/D/reg", [])

    def _phase(
        self, phase: str, inputs: Inputs, report: str, randn: Sequence[Tensor], randn_like: Sequence[Tensor] = ()
    ) -> Tensor:
        """The public training code's own phase; its reported loss, averaged over the batch."""
        self.G.train().requires_grad_(phase.startswith("G"))
        self.D.train().requires_grad_(phase.startswith("D"))
        for network in (self.G, self.D):
            network.zero_grad(set_to_none=True)
        reported: dict[str, Tensor] = {}
        self.statistics.report = lambda name, value: reported.update({name: value})
        rest: dict[str, Any] = {"sync": True} if self.name == peers.NVIDIA_ADA else {"cur_nimg": 0}
        labels = torch.zeros(self.case.batch, 0)
        with peers.scripted(randn=randn, randn_like=randn_like):
            self.loss.accumulate_gradients(
                phase=phase, real_img=inputs.real, real_c=labels, gen_z=inputs.z, gen_c=labels, gain=1, **rest
            )
        return reported[report].detach().mean()

    def gradients(self, which: str) -> dict[str, Tensor]:
        module = self.G if which == "generator" else self.D
        found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        case = self.case
        widths = {"resolution": case.resolution, "channel_base": case.channel_base, "channel_max": case.channel_max}
        if which == "generator":
            sizes = {"z_dim": case.w_dim, "w_dim": case.w_dim, "mapping_layers": case.mapping_layers}
            names = {ours: generator_name(ours) for ours in layout.empty_generator({**widths, **sizes})}
        else:
            names = {ours: discriminator_name(ours, case.resolution) for ours in layout.empty_discriminator(widths)}
        return {ours: found[name] for ours, name in names.items() if name in found}


if __name__ == "__main__":
    parity.main(sys.argv, Nvidia, ".pkl")
