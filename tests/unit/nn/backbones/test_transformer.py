"""Patch tokens of small random vision models, saved here, as maps; skipped without the extra `transformers`."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.nn.backbones.catalogue import open_backbone, recorded_weights, weights_record

installed = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the extra `transformers` is not installed"
)
SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 32, "mlp_ratio": 2,
    "image_size": 32,
}  # fmt: skip


def save(folder: Path, kind: str) -> Path:
    import transformers

    torch.manual_seed(0)
    if kind == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**SIZES, patch_size=8))
    elif kind == "registers":
        sizes = transformers.Dinov2WithRegistersConfig(**SIZES, patch_size=7, num_register_tokens=3)
        model = transformers.Dinov2WithRegistersModel(sizes)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, patch_size=14))
    model.save_pretrained(folder)
    return folder


@installed
@pytest.mark.parametrize(("kind", "patch"), [("vit", 8), ("dinov2", 14), ("registers", 7)])
def test_maps_lie_on_the_patches_grid(tmp_path: Path, kind: str, patch: int) -> None:
    """At another size than the model's own, which the positions are interpolated to."""
    backbone = open_backbone("transformers", save(tmp_path / "m", kind), resolution=48)
    assert [layer.name for layer in backbone.feature_layers] == ["layer1", "layer2", "layer3", "layer5"]
    grid = round(48 / patch)
    assert all(layer[1:] == (16, grid) for layer in backbone.feature_layers)
    maps = backbone(torch.randn(2, 3, 48, 48))
    assert all(m.shape == (2, 16, grid, grid) for m in maps.values())
    assert backbone.title.startswith("transformers ")


@installed
def test_a_map_is_the_patches_in_reading_order(tmp_path: Path) -> None:
    """Without attention to the others a token says what its own patch shows: one bright patch, one odd token."""
    backbone: Any = open_backbone("transformers", save(tmp_path / "m", "vit"), resolution=32, layers=["layer1"])
    embeddings = backbone.model.embeddings
    with torch.no_grad():
        embeddings.position_embeddings.zero_()
        for name, parameter in backbone.model.named_parameters():
            if ("attention" in name and name.endswith("o_proj.weight")) or "attention.output" in name:
                parameter.zero_()
    image = torch.zeros(1, 3, 32, 32)
    image[..., 8:16, 24:32] = 1.0  # row 1, column 3
    maps = backbone(image)["layer1"][0]
    odd = (maps - maps[:, :1, :1]).abs().sum(0)
    assert int(odd.argmax()) == 1 * 4 + 3
    assert backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@installed
def test_the_models_own_normalisation_is_used(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", "vit")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    backbone: Any = open_backbone("transformers", folder)
    assert backbone.std.flatten().tolist() == [0.25] * 3
    record = weights_record("transformers", folder)
    assert recorded_weights(record) == folder
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="not the transformers weights"):
        recorded_weights(record)


@installed
def test_layers_and_folders_that_are_not_there(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", "vit")
    with pytest.raises(ConfigError, match="no layer 'layer6'"):
        open_backbone("transformers", folder, layers=["layer6"])
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_backbone("transformers", folder)


def test_a_folder_without_safetensors_or_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingEnvironmentError, match="no transformers model is there"):
        open_backbone("transformers", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no weights as safetensors"):
        open_backbone("transformers", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingEnvironmentError, match="transformers is not installed") as error:
        open_backbone("transformers", tmp_path)
    assert "raygseg[transformers]" in error.value.hint
