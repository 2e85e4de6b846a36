"""The layouts that `prepare` knows, by name."""

from __future__ import annotations

from raygseg.data.preparation.celebamask import open_celebamask
from raygseg.data.preparation.datasetgan import open_datasetgan
from raygseg.data.preparation.listing import Listing
from raygseg.data.preparation.pascal_part import open_pascal_part
from raygseg.data.preparation.photos import open_photos
from raygseg.data.preparation.settings import PreparationSettings
from raygseg.data.preparation.voc import open_voc
from raygseg.errors import ConfigError

LAYOUTS = ("pictures", "celebamask-hq", "pascal-part", "voc", "datasetgan")


def open_listing(
    source: str, settings: PreparationSettings, masks: str = "", labels: str = "", output: str = ""
) -> Listing:
    """List `source` as `settings.layout` says.

    Raises:
        ConfigError: an unknown layout or task, or an option that the layout has no use for.
        DataError: what the layout needs is not there.
    """
    layout, task, split = settings.layout, settings.task, settings.split
    _refuse(layout, "masks", masks, ("pictures",))
    _refuse(layout, "labels", labels, ("pictures", "datasetgan"))
    _refuse(layout, "task", task, ("celebamask-hq", "pascal-part"))
    if layout == "pictures":
        return open_photos(source, masks, labels, settings.mask_format, split, (output,))
    if layout == "celebamask-hq":
        return open_celebamask(source, task, split)
    if layout == "pascal-part":
        return open_pascal_part(source, task, split)
    if layout == "voc":
        return open_voc(source, split)
    if layout == "datasetgan":
        return open_datasetgan(source, labels, split)
    raise ConfigError(f"layout={layout} is not known", f"use one of {', '.join(LAYOUTS)}")


def _refuse(layout: str, key: str, value: str, used_by: tuple[str, ...]) -> None:
    if value and layout in LAYOUTS and layout not in used_by:
        raise ConfigError(f"layout={layout} has no use for {key}={value}", f"leave {key} away")
