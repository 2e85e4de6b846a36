"""The controller of the adaptive augmentation's probability (spec A12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raygseg.config.sections import GanAugment


@dataclass
class AugmentController:
    """Moves p so that the mean sign of the logits of real pictures stays at the target.

    p changes every `interval` steps by batch * interval / (ada_kimg * 1000) and is clamped to
    [0, p_max]: left alone it has been seen to run far past 1.
    """

    section: GanAugment
    batch_size: int
    p: float = 0.0
    sign_sum: float = 0.0
    steps: int = 0

    def __post_init__(self) -> None:
        self.p = self.section.p if self.section.mode != "none" else 0.0

    def observe(self, mean_sign: float) -> None:
        """`mean_sign`: mean over this step's real pictures (all workers) of sign(D(real))."""
        if self.section.mode != "ada":
            return
        self.sign_sum += mean_sign
        self.steps += 1
        if self.steps < self.section.interval:
            return
        r = self.sign_sum / self.steps
        rate = self.batch_size * self.section.interval / (self.section.ada_kimg * 1000)
        direction = (r > self.section.target) - (r < self.section.target)
        self.p = min(max(self.p + direction * rate, 0.0), self.section.p_max)
        self.sign_sum, self.steps = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"p": self.p, "sign_sum": self.sign_sum, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.p, self.sign_sum, self.steps = state["p"], state["sign_sum"], state["steps"]
