"""Alarms of a running training, with the checkpoint to go back to."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from raygseg.config.joint_gan import JointGanConfig
from raygseg.config.sections import AdversarialRun, Run
from raygseg.data import object_store
from raygseg.engine.checkpoint import CheckpointFolder, checkpoint_nimg

log = logging.getLogger(__name__)


class Watch:
    """Warns when the ticks of a run say that it has gone wrong; silent for kinds without detectors.

    alarms: names of the detectors that fired, in order.
    """

    def __init__(self, config: Run, folder: str) -> None:
        self.alarms: list[str] = []
        self._folder = folder
        self._watch = None
        if isinstance(config, AdversarialRun):
            from raygseg.methods.semanticgan.watch import pair_detectors
            from raygseg.methods.stylegan2.watch import GanWatch

            self._watch = GanWatch(config, pair_detectors(config) if isinstance(config, JointGanConfig) else ())

    def tick(self, nimg: int, metrics: Mapping[str, float]) -> None:
        for alarm in self._watch.observe(nimg, metrics) if self._watch else ():
            self.alarms.append(alarm.name)
            back = self._way_back(alarm.good_nimg)
            log.warning("%s at %.2f kimg: %s; %s. %s", alarm.name, nimg / 1000, alarm.message, alarm.fix, back)

    def _way_back(self, good_nimg: int) -> str:
        """The newest checkpoint from before the trouble."""
        good = [name for name in CheckpointFolder(self._folder).names() if checkpoint_nimg(name) <= good_nimg]
        if not good:
            return "No checkpoint from before that is left: start anew"
        return f"The last good checkpoint is {object_store.join(self._folder, good[0])}"
