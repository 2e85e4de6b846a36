"""The queue: what is to be done, in order, what each item needs and what comes back."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raygseg.errors import ConfigError

if TYPE_CHECKING:
    from raygseg.benchmarks.gpu_queue.lease import Lease

CARS_ZIP, PEERS = "inputs/cars-128.zip", "peers"
NUCLEI_ZIP, FEWSHOT_ZIP, VGG16 = "inputs/nuclei.zip", "inputs/fewshot.zip", "inputs/vgg16.safetensors"


@dataclass(frozen=True)
class Item:
    """One entry of the queue.

    Attributes:
        module: of this package; its `run(lease, item)` does the work and returns True when nothing is left of it.
        minutes: on one H100-class GPU, in all; longer than a command may last means over several.
        needs: files or folders below .gpu/ without which it is passed over.
        returns: what comes back besides lines in results.jsonl.
        follows: item whose newest state comes along too.
    """

    name: str
    module: str
    what: str
    minutes: int
    needs: tuple[str, ...] = ()
    returns: str = "figures"
    follows: str = ""

    def run(self, lease: Lease) -> bool:
        module = importlib.import_module(f"{__package__}.{self.module}")
        return bool(module.run(lease, self.name))


ITEMS = (
    Item("gpu-tests", "gpu_tests", "tests/gpu", 2),
    Item("timing-256", "timing", "StyleGAN2 at 256 px: images/s, peak memory, share of the chip, by precision", 12),
    Item("public-256", "public_step", "the same step of the public code, with its CUDA operators if they build", 4,
         (PEERS,)),
    Item("cars-128", "trained", "StyleGAN2 on 7,092 car photos at 128 px, 5,000 kimg", 120, (CARS_ZIP,),
         "grids, the training state, the generator"),
    Item("toy-generator", "trained", "the network of configs/toy/gan.yaml to 2,000 kimg", 20, (),
         "grids, the training state, the generator"),
    Item("nuclei-generator", "trained", "the network of configs/joint-gan/nuclei-pictures.yaml to 500 kimg", 12,
         (NUCLEI_ZIP,), "grids, the training state, the generator"),
    Item("nuclei-labels", "few_labels", "SemanticGAN on nuclei from that generator: 10 labels x 3, 50 x 1", 35,
         (NUCLEI_ZIP, VGG16), "figures, sheets", "nuclei-generator"),
    Item("panet-folds", "folds", "PANet on the four folds of few-shot classes, 12,000 episodes a training", 60,
         (FEWSHOT_ZIP, VGG16)),
)  # fmt: skip


def chosen(names: Sequence[str], done: Iterable[str] = ()) -> list[Item]:
    """The items of these names, also those that are done; without names all that are not, in order.

    Raises ConfigError for a name that is not in the queue.
    """
    known = {item.name: item for item in ITEMS}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no item '{name}' in the queue", f"use one of: {', '.join(known)}")
    over = set(done)
    return [known[name] for name in names] if names else [item for item in ITEMS if item.name not in over]
