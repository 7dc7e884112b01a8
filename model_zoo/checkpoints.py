"""Read a checkpoint file into a state dict without executing anything that it contains.

Pickled files go through `torch.load(weights_only=True)`, which rebuilds tensors and plain
containers and refuses every other class; the few harmless classes that real training checkpoints
carry (`argparse.Namespace`, NumPy numbers, file paths) are allowed inside one context only.
"""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import struct
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liederiv.errors import ModelError
from liederiv.foreign import at_home, one_line

from .checkpoint_parts import Part, parts_of

__all__ = ["Checkpoint", "read_checkpoint"]

_FOREIGN = {
    b"\x89HDF": "an HDF5 file (Keras)",
    b"\x93NUMPY": "a NumPy array",
    b"\x08\x07\x12": "an ONNX model",
    b"\x08\x08\x12": "an ONNX model",
    b"\x1f\x8b": "compressed (gzip)",
}
SUFFIXES = ".safetensors, .pth, .pt, .pth.tar or .bin"


@dataclass(frozen=True)
class Checkpoint:
    """The weights found in one file.

    Attributes:
        path: The file.
        parts: What may be the weights, the likeliest first; which of them are is for the model to
            say, see `liederiv.model_zoo.weights.fit`.
        arch: Name of the architecture that the file states, or None.
        hyper_parameters: Settings that a Lightning checkpoint keeps beside the weights.
    """

    path: Path
    parts: tuple[Part, ...]
    arch: str | None
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name of the likeliest part, on the CPU, names as they stand in the file."""
        return self.parts[0].state_dict

    @property
    def key(self) -> str:
        """Dotted path of the likeliest part; empty for a bare state dict."""
        return self.parts[0].key

    @property
    def num_parameters(self) -> int:
        """Number of values in all tensors, buffers included."""
        return sum(t.numel() for t in self.state_dict.values())


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the weights from a checkpoint file; nothing in the file is executed.

    Args:
        path: A `.safetensors` file or one written by `torch.save`: a state dict, or a dictionary
            that holds one under a usual name (`state_dict`, `model`, `state_dict_ema`, …).

    Returns:
        The state dict and what the file says about it.

    Raises:
        ModelError: If the file is missing, truncated, no checkpoint, or holds anything but data.
    """
    path = at_home(path)
    _check_file(path)
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    else:
        content = _read_torch(path)
    if not isinstance(content, Mapping):
        raise ModelError(
            f"`checkpoint` {path} holds a {type(content).__name__} where a state dict (tensors by "
            "name) was expected; save `model.state_dict()`."
        )
    parts = parts_of(content)
    if not parts:
        listed = one_line(", ".join(repr(k) for k in list(content)[:8]) or "nothing")
        raise ModelError(
            f"`checkpoint` {path} has no state dict: it holds {listed}; save the weights as a bare "
            "state dict or under 'state_dict'."
        )
    arch, settings = _stated_architecture(content), _stated_settings(content)
    return Checkpoint(path, tuple(parts), arch, settings)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ModelError(f"`checkpoint` {path} does not exist; check the path.")
    if not path.is_file() and not path.is_dir():
        raise ModelError(f"`checkpoint` {path} is a pipe or a device; give a file.")
    if not path.is_file():
        raise ModelError(
            f"`checkpoint` {path} is a folder; give the file, or 'local-dir:{path}' as the model "
            "where the folder has timm's config.json."
        )
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise ModelError(f"`checkpoint` {path} is empty (0 bytes); copy or download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"`checkpoint` {path} is a Git LFS pointer, not the weights; run 'git lfs pull'."
        )
    for sign, kind in _FOREIGN.items():
        if head.startswith(sign):
            raise ModelError(
                f"`checkpoint` {path} is {kind}, not weights that torch has saved; save "
                "`model.state_dict()` from the program that reads it."
            )
    if head.lstrip()[:1] == b"<":
        raise ModelError(
            f"`checkpoint` {path} is a web page (HTML or XML), not weights; download it again."
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    # TypeError, KeyError, …: what the unpickler raises when fed bytes that are no pickle.
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless_classes()):
            warnings.simplefilter("ignore", UserWarning)  # a note on what follows as an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused_or_damaged(path, error) from error
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    except OSError as error:
        raise _damaged(path, error) from error
    except (RecursionError, MemoryError) as error:
        raise ModelError(
            f"`checkpoint` {path} is nested too deeply or claims more than memory holds "
            f"({type(error).__name__}); save `model.state_dict()` only."
        ) from error
    except (EOFError, TypeError, ValueError, LookupError, AttributeError, struct.error) as error:
        raise _damaged(path, error) from error


def _harmless_classes() -> list[Any]:
    """Classes that hold data only, found in checkpoints of common training scripts."""
    scalar = np.float64(0).__reduce__()[0]  # rebuilds a NumPy number; its module was renamed
    names = ("float16", "float32", "float64", "int32", "int64", "bool_")
    dtypes = [type(np.dtype(getattr(np, name))) for name in names]
    return [
        argparse.Namespace,
        defaultdict,
        dict,
        pathlib.PosixPath,
        pathlib.PurePosixPath,
        np.dtype,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        *dtypes,
    ]


def _refused_or_damaged(path: Path, error: Exception) -> ModelError:
    """Tell a file that asks for code to run from one whose bytes are broken."""
    text = str(error)
    name = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)", text)
    if (name is None or "nsupported" not in text) and _is_plain_pickle(path):
        return ModelError(
            f"`checkpoint` {path} is a plain pickle, which `torch.save` has not written and which "
            "cannot be read without executing code; load it where it comes from and save "
            "`model.state_dict()` with torch.save."
        )
    if name is None or "nsupported" not in text:
        return _damaged(path, error)
    return ModelError(
        f"`checkpoint` {path} was refused: it asks to import {name.group(1) or name.group(2)}, "
        "which could execute code, and nothing in it was run; save only `model.state_dict()`, best "
        "as .safetensors."
    )


def _is_plain_pickle(path: Path) -> bool:
    """Whether it begins and ends as a pickle does, and not as torch's two formats do."""
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(-1, 2)
        if file.read(1) != pickle.STOP:
            return False
    legacy = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled
    return head[:1] == b"\x80" and legacy[:12] not in head


def _unreadable(path: Path, error: RuntimeError) -> ModelError:
    text = str(error)
    for sign, kind in (("TorchScript", "a TorchScript archive"), (".tar", "in torch's tar format")):
        if sign in text:
            return ModelError(
                f"`checkpoint` {path} is {kind}, which cannot be read without executing code; save "
                "`model.state_dict()` from it instead."
            )
    return _damaged(path, error)


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".")
    return ModelError(
        f"`checkpoint` {path} ({path.stat().st_size} bytes) is truncated or not a checkpoint "
        f"({SUFFIXES}): {reason}; copy or download it again."
    )


def _stated_architecture(content: Mapping[Any, Any]) -> str | None:
    """Architecture named by timm's training script ('arch', or 'model' in its arguments)."""
    arch = content.get("arch")
    if not isinstance(arch, str):
        arch = getattr(content.get("args"), "model", None)
    return arch if isinstance(arch, str) else None


def _stated_settings(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Lightning's `hyper_parameters`, also where they are an `argparse.Namespace` inside."""
    found = content.get("hyper_parameters")
    if isinstance(found, Mapping) and len(found) == 1:
        (inner,) = found.values()
        found = inner if isinstance(inner, argparse.Namespace) else found
    if isinstance(found, argparse.Namespace):
        found = vars(found)
    return {str(k): v for k, v in found.items()} if isinstance(found, Mapping) else {}
