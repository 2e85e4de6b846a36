"""Item panet-folds: PANet without and with alignment on four folds, longer than a CPU allows, beside no training."""

from __future__ import annotations

from typing import Any

from raygseg.benchmarks.fewshot import UNTRAINED
from raygseg.benchmarks.fewshot_study import ARMS, Study
from raygseg.benchmarks.gpu_queue.items import FEWSHOT_ZIP
from raygseg.benchmarks.gpu_queue.lease import Lease
from raygseg.benchmarks.gpu_queue.plain import LeaseOverError, data_folder, train
from raygseg.config.episodes import EpisodesConfig
from raygseg.nn.backbones.catalogue import FILES
from raygseg.pipelines.episodes import score_episodes

FOLDS = range(4)
KIMG = 12.0  # episodes of a training, in thousands
TINY_KIMG, TINY_SIDE = 0.008, 33
# All of the network, as published.
OVERRIDES = ("network.frozen_parts=0",)


def run(lease: Lease, item: str) -> bool:
    """Arm after arm of every fold; True when all are on record."""
    place = data_folder(lease, FEWSHOT_ZIP)
    weights = place / "weights" / FILES["vgg16"]
    tiny = lease.scale == "tiny"
    side, kimg = (TINY_SIDE, TINY_KIMG) if tiny else (201, KIMG)
    told = [f"data={place / 'fewshot'}", f"network.weights={weights}", "seed=0", *OVERRIDES]
    study = Study(lease.work / item, side, 0, told)
    scored = {"weights": str(weights), "data": str(place / "fewshot"), "resolution": side, "shots": (1, 5),
              "episodes": 2 if tiny else 1000, "runs": 1 if tiny else 3, "bootstrap": 0 if tiny else 1000}  # fmt: skip
    for fold in FOLDS[:1] if tiny else FOLDS:
        for arm in (UNTRAINED, *ARMS):
            key = f"fold {fold} {arm}"
            if lease.has(item, key):
                continue
            try:
                model = ""
                if arm in ARMS:
                    model = str(train(study.config(f"{arm}-{fold}", ARMS[arm], fold, kimg), lease))
                lease.record(item, key, score(lease, item, key, fold, model, scored))
            except LeaseOverError:
                return False
    return True


def score(lease: Lease, item: str, key: str, fold: int, model: str, scored: dict[str, Any]) -> dict[str, Any]:
    """Figures by number of shots, with protocol and digests. Raises LeaseOverError; what was counted is kept."""

    def progress(*_: Any) -> None:
        if lease.remaining() <= 0:
            raise LeaseOverError

    name = key.replace(" ", "-")
    config = EpisodesConfig(
        name=name, fold=fold, model=model, output=str(lease.work / item / "scores" / name),
        runtime={"in_process": True, "device": lease.device}, **scored,
    )  # fmt: skip
    result = score_episodes(config, progress=progress)
    figures = {
        str(shots): {
            "miou": found.mean["miou"],
            "binary_iou": found.mean["binary_iou"],
            "interval": list(found.interval.get("miou", ())),
        }
        for shots, found in result.scores.items()
    }
    return {"shots": figures, "protocol": result.protocol, "episodes": dict(result.episodes)}
