"""Telling from a run's statistics that GAN training has gone wrong, while a good checkpoint is still there.

Every detector reads what a tick reports anyway and asks for several ticks in a row, because a single
one of any of these is normal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from raygseg.config.sections import AdversarialRun

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Alarm:
    """What went wrong.

    Attributes:
        name: of the detector.
        message, fix: for the user.
        good_nimg: pictures seen at the last tick before the trouble began.
    """

    name: str
    message: str
    fix: str
    good_nimg: int


@dataclass
class Detector:
    """Fires once when `bad` has held for `patience` ticks in a row; a healthy tick arms it again."""

    name: str
    bad: Callable[[Metrics], bool]
    message: Callable[[Metrics], str]
    fix: str
    patience: int
    _run: int = field(default=0, init=False)
    _good: int = field(default=0, init=False)

    def observe(self, nimg: int, metrics: Metrics) -> Alarm | None:
        if not self.bad(metrics):
            self._run, self._good = 0, nimg
            return None
        self._run += 1
        if self._run != self.patience:
            return None
        return Alarm(self.name, self.message(metrics), self.fix, self._good)


# Thresholds. A healthy logistic discriminator has a loss of 0.4 to 1.3; below WON_LOSS the average
# picture is told apart with odds of about 20 to 1 on both sides and the generator's gradient fades.
WON_LOSS = 0.1
# Generated pictures' spread over that of real ones.
COLLAPSED_SHARE = 0.1
AUGMENT_SHARE = 0.98  # of p_max


def gan_detectors(config: AdversarialRun) -> list[Detector]:
    """The detectors that make sense for this configuration."""
    p_max = config.augment.p_max
    detectors = [
        Detector(
            "non-finite",
            lambda m: m.get("nonfinite", 0.0) > 0,
            lambda m: f"losses or gradients are not finite (on average {m['nonfinite']:.3g} values a step)",
            "lower the learning rates or set optimiser.precision: fp32",
            patience=1,
        ),
        Detector(
            "discriminator has won",
            lambda m: m.get("loss/discriminator", 1.0) < WON_LOSS,
            lambda m: (
                f"the discriminator has won: its loss is {m['loss/discriminator']:.3g}, "
                f"the generator's {m['loss/generator']:.3g}"
            ),
            "raise loss.r1_gamma (x4), lower optimiser.lr_discriminator, or give more pictures",
            patience=3,
        ),
        Detector(
            "generator has collapsed",
            lambda m: "spread/real" in m and m["spread/fake"] < COLLAPSED_SHARE * m["spread/real"],
            lambda m: (
                "pictures of different latents are nearly all the same "
                f"(they differ by {m['spread/fake']:.3g}, real ones by {m['spread/real']:.3g})"
            ),
            "lower optimiser.lr_generator, raise loss.r1_gamma, and check that the pictures themselves vary",
            patience=3,
        ),
    ]
    if config.augment.mode == "ada":
        detectors.append(
            Detector(
                "augmentation has run away",
                lambda m: m.get("augment_p", 0.0) >= AUGMENT_SHARE * p_max,
                lambda m: f"augmentation p stands at its limit ({m['augment_p']:.3g}): the discriminator overfits",
                "give more pictures, raise loss.r1_gamma, or make the networks narrower (generator.capacity)",
                patience=3,
            )
        )
    return detectors


class GanWatch:
    """All detectors of a run; `extra`: of what it trains besides."""

    def __init__(self, config: AdversarialRun, extra: Sequence[Detector] = ()) -> None:
        self._detectors = [*gan_detectors(config), *extra]

    def observe(self, nimg: int, metrics: Metrics) -> list[Alarm]:
        """New alarms of the tick that ended after `nimg` pictures."""
        alarms = (detector.observe(nimg, metrics) for detector in self._detectors)
        return [alarm for alarm in alarms if alarm is not None]
