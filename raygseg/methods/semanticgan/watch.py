"""What goes wrong in joint training besides what goes wrong in any GAN (spec A18-6, B11-8)."""

from __future__ import annotations

from raygseg.config.joint_gan import JointGanConfig
from raygseg.methods.stylegan2.watch import AUGMENT_SHARE, Detector

# Of the hinge loss: every patch on its side of the margin, which gives the generator's labels no gradient to follow.
# While pictures are still poor it wins by them, so only a long reign counts.
WON_LOSS, REIGN = 0.01, 10


def pair_detectors(config: JointGanConfig) -> list[Detector]:
    """The detectors of pairs that make sense for this configuration."""
    detectors = [
        Detector(
            "label discriminator has won",
            lambda m: m.get("loss/label_discriminator", 1.0) < WON_LOSS,
            lambda m: f"pairs are all told apart: that discriminator's loss is {m['loss/label_discriminator']:.3g}",
            "raise loss.label_r1_gamma (x4), lower optimiser.lr_label_discriminator, or set label_augment.mode: ada",
            patience=REIGN,
        ),
    ]
    if config.label_augment.mode == "ada":
        p_max = config.label_augment.p_max
        detectors.append(
            Detector(
                "augmentation of pairs has run away",
                lambda m: m.get("label_augment_p", 0.0) >= AUGMENT_SHARE * p_max,
                lambda m: f"p of the pairs stands at its limit ({m['label_augment_p']:.3g}): the few labels are known",
                "label more pictures, raise loss.label_r1_gamma, or narrow the network (label_discriminator.width)",
                patience=3,
            )
        )
    return detectors
