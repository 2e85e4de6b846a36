"""The best and the worst pictures of a pass over a data set, drawn as they come, in bounded memory."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

from raygseg.labels import LabelMap, LabelSpace
from raygseg.viz.grids import Canvas
from raygseg.viz.overlays import Comparison, compare, comparison_sheet


@dataclass
class Extremes:
    """Keeps the `keep_best` best and the `keep_worst` worst pictures so far, already shrunk."""

    labels: LabelSpace
    keep_best: int
    keep_worst: int
    _best: list[tuple[float, int]] = field(default_factory=list)
    _worst: list[tuple[float, int]] = field(default_factory=list)
    _drawn: dict[int, Comparison] = field(default_factory=dict)

    def offer(
        self, index: int, name: str, score: float, picture: Canvas, truth: LabelMap, prediction: LabelMap
    ) -> None:
        """Draw the picture if it is among the best or worst so far; the later of two equals is the worse."""
        insort(self._best, (-score, index))
        insort(self._worst, (score, -index))
        del self._best[self.keep_best :], self._worst[self.keep_worst :]
        wanted = {i for _, i in self._best} | {-i for _, i in self._worst}
        if index in wanted:
            self._drawn[index] = compare(picture, truth, prediction, self.labels, f"{name}   mIoU {score:.3f}")
        for gone in set(self._drawn) - wanted:
            del self._drawn[gone]

    def __len__(self) -> int:
        return len(self._drawn)

    def ranking(self) -> tuple[list[int], list[int]]:
        """Indices of the best and of the worst pictures, the most extreme first."""
        return [i for _, i in self._best], [-i for _, i in self._worst]

    def sheets(self) -> tuple[Canvas | None, Canvas | None]:
        """Best and worst as one sheet each, the most extreme first; None where nothing is kept."""
        chosen = ([self._drawn[i] for i in indices] for indices in self.ranking())
        best, worst = (comparison_sheet(rows, self.labels) if rows else None for rows in chosen)
        return best, worst
