"""The whole way from and to a real S3 server."""

from __future__ import annotations

import pytest

from raygseg.data import object_store
from raygseg.data.picture_files import encode_png
from raygseg.data.preparation.settings import PreparationSettings
from raygseg.data.sources import open_labelled, open_pictures
from raygseg.data.toy import render_toy
from raygseg.errors import FingerprintError
from raygseg.pipelines.prepare import prepare


@pytest.mark.s3
def test_from_bucket_to_bucket(s3_place: str) -> None:
    source, out = f"{s3_place}/photos", f"{s3_place}/photos/prepared"
    for index in range(10):
        picture, truth = render_toy(0, index, 24)
        object_store.write_bytes(f"{source}/images/{index}.png", encode_png(picture) if index != 3 else b"cut")
        object_store.write_bytes(f"{s3_place}/masks/{index}.png", encode_png(truth))
    object_store.write_bytes(
        f"{s3_place}/labels.json", b'{"classes": ["background", "b", "c", "d", "e", "f", "g", "h", "i"]}'
    )
    settings = PreparationSettings(24, files_per_shard=4)
    result = prepare(source, out, settings, masks=f"{s3_place}/masks")
    assert result.pictures == 9 and result.skipped == {"not a picture": 1}
    data = open_labelled(out, 24)
    assert len(data) == len(open_pictures(out, 24)) == 9
    for row, index in enumerate((0, 1, 2, 4, 5, 6, 7, 8, 9)):
        assert (data.read(row)[0] == render_toy(0, index, 24)[0]).all()
        assert (data.read(row)[1] == render_toy(0, index, 24)[1]).all()
    assert b"not a picture" in object_store.read_bytes(f"{out}/report.html")
    assert prepare(source, out, settings, masks=f"{s3_place}/masks").done_before == 10
    with pytest.raises(FingerprintError, match="image_format"):
        prepare(source, out, PreparationSettings(24, files_per_shard=4, image_format="webp"), masks=f"{s3_place}/masks")
