"""Open a file of weights without executing anything in it, and say what it is if it holds none.

Pickled files go through `torch.load(weights_only=True)`, which rebuilds tensors and plain
containers and refuses every other class; the few harmless classes that real training checkpoints
carry (`argparse.Namespace`, NumPy numbers, file paths) are allowed inside one context only.
"""

from __future__ import annotations

import argparse
import pathlib
import pickle
import pickletools
import re
import stat
import struct
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from liederiv.errors import ModelError
from liederiv.foreign import one_line

__all__ = ["read_content", "shown"]

SUFFIXES = ".safetensors, .pth, .pt, .pth.tar or .bin"
# First bytes of what is mistaken for weights, and what to do about it.
_SAVE = "save `model.state_dict()` with torch.save or safetensors"
_UNPACK = "unpack it first"
_SIGNS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, TensorFlow)", f"convert it, and {_SAVE}"),
    (b"\x93NUMPY", "a NumPy array", _SAVE),
    (b"GGUF", "a GGUF file (llama.cpp)", _SAVE),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x89PNG", "a picture (PNG)", "give the file with the weights"),
    (b"\xff\xd8\xff", "a picture (JPEG)", "give the file with the weights"),
    (b"%PDF", "a PDF document", "give the file with the weights"),
    (b"\x7fELF", "a program or library (ELF)", "give the file with the weights"),
    (b"\x08\x01\x12", "a TensorFlow SavedModel", f"convert it, and {_SAVE}"),
)  # fmt: skip
_TABLE = bytes.fromhex("57fb808b247547db")  # ends the index of a TensorFlow checkpoint


def shown(path: Path) -> str:
    """A path as it stands in a sentence."""
    return one_line(path)


def read_content(path: Path) -> Any:
    """What a file holds; nothing in it is executed.

    Args:
        path: A file of safetensors or one written by `torch.save`, told by its content.

    Returns:
        The object, usually nested dictionaries with tensors on the CPU.

    Raises:
        ModelError: If the file is missing, truncated, no checkpoint, or holds anything but data.
    """
    head, tail = _ends(path)
    if _is_safetensors(head):  # first: its length may read as another format's sign
        return _read_safetensors(path)
    _name_what_it_is(path, head, tail)
    if head.startswith(b"PK"):
        _check_archive(path)
    return _read_torch(path)


def _ends(path: Path) -> tuple[bytes, bytes]:
    """First and last bytes of a regular file; others are named and never opened."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelError(
                f"`checkpoint` {shown(path)} is a folder; give the file, or "
                f"'local-dir:{shown(path)}' as the model where the folder has timm's config.json."
            )
        if not stat.S_ISREG(mode):
            raise ModelError(
                f"`checkpoint` {shown(path)} is a pipe or a device; give a file with weights."
            )
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(-min(64, path.stat().st_size), 2)
            return head, file.read(64)
    except FileNotFoundError as error:
        link = "is a link to nothing" if path.is_symlink() else "does not exist"
        raise ModelError(f"`checkpoint` {shown(path)} {link}; check the path.") from error
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise ModelError(
            f"`checkpoint` {shown(path)[:200]} cannot be read ({reason}); check path and "
            "permissions."
        ) from error


def _name_what_it_is(path: Path, head: bytes, tail: bytes) -> None:
    """Refuse what is known to be something else, by its first bytes."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    found = next(((kind, remedy) for sign, kind, remedy in _SIGNS if head.startswith(sign)), None)
    if not head:
        found = "empty (0 bytes)", "copy or download it again"
    elif head.startswith(b"version https://git-lfs"):
        found = "a Git LFS pointer, not the weights", "run 'git lfs pull'"
    elif text[:1] == b"<":
        found = "a web page (HTML or XML), not weights", "download it again"
    elif head[4:8] == b"TFL3":
        found = "a TensorFlow Lite model", f"convert it, and {_SAVE}"
    elif tail.endswith(_TABLE) or re.search(r"\.(ckpt.*\.)?data-\d{5}-of-\d{5}$", path.name):
        found = "part of a TensorFlow checkpoint", f"convert it, and {_SAVE}"
    elif path.suffix == ".onnx" or (
        head[:1] == b"\x08" and 2 <= head[1] < 64 and head[2:3] in (b"\x12", b"\x1a", b":", b"B")
    ):
        found = "an ONNX model", f"load the PyTorch model it was exported from, and {_SAVE}"
    elif text[:1] in (b"{", b"[") and _is_text(head):
        found = "a JSON text, not weights", "give the file that it describes"
    if found is not None:
        raise ModelError(f"`checkpoint` {shown(path)} is {found[0]}; {found[1]}.")


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in head)


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes of length, then a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


def _check_archive(path: Path) -> None:
    """Name the ZIP archives that `torch.save` has not written."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise _damaged(path, error) from error
    names = [entry.filename for entry in entries]
    parts = {name.split("/", 1)[-1] for name in names}
    kind = ""
    if any(part.startswith("code/") or part == "constants.pkl" for part in parts):
        kind = "a TorchScript archive, which cannot be read without executing code"
    elif any(part.startswith(("models/", "data/aotinductor")) for part in parts):
        kind = "a program written by torch.export"
    elif names and all(name.endswith(".npy") for name in names):
        kind = "an archive of NumPy arrays (.npz)"
    elif any(name.endswith("model.weights.h5") for name in names):
        kind = "a Keras model"
    elif "data.pkl" not in parts:
        first = f" (first: {one_line(names[0])[:80]})" if names else ""
        kind = f"a ZIP archive that torch.save has not written{first}"
    elif any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        kind = "a compressed copy of a checkpoint, which torch.save never writes"
    if kind:
        raise ModelError(
            f"`checkpoint` {shown(path)} is {kind}; save `model.state_dict()` from it instead."
        )


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError, RuntimeError, OSError, MemoryError, KeyError,
            AttributeError, TypeError) as error:  # fmt: skip
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals(_harmless_classes()),
            path.open("rb") as stream,  # of a path torch would judge by its ending
        ):
            warnings.simplefilter("ignore")  # a note on what follows as an error
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused_or_damaged(path, error) from error
    except RecursionError as error:
        raise ModelError(
            f"`checkpoint` {shown(path)} is nested too deeply to be read; save "
            "`model.state_dict()` alone."
        ) from error
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # an unpickler fed with bytes that are no pickle raises anything
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
    if name is None or "nsupported" not in text:
        return _raw_pickle(path) or _damaged(path, error)
    return ModelError(
        f"`checkpoint` {shown(path)} was refused: it asks to import "
        f"{name.group(1) or name.group(2)}, which could execute code, and nothing in it was run; "
        "save only `model.state_dict()`, best as .safetensors."
    )


def _unreadable(path: Path, error: RuntimeError) -> ModelError:
    text = str(error)
    kind = ""
    if ".tar" in text:
        kind = "in torch's tar format, which cannot be read without executing code"
    elif "allocate" in text:
        kind = "claiming more values than memory holds"
    if not kind:
        return _raw_pickle(path) or _damaged(path, error)
    return ModelError(
        f"`checkpoint` {shown(path)} is {kind}; save `model.state_dict()` from it with torch.save "
        "or safetensors."
    )


def _raw_pickle(path: Path) -> ModelError | None:
    """Tell an intact pickle by its opcodes, which are read and not obeyed."""
    with path.open("rb") as stream:
        start = stream.read(1)
        stream.seek(0)
        try:
            if start != b"\x80" or not list(pickletools.genops(stream)):
                return None
        except Exception:  # no opcodes, or cut off
            return None
        if stream.read(1):
            return None  # torch's old format goes on after its first pickle
    return ModelError(
        f"`checkpoint` {shown(path)} is a raw pickle (pickle.dump), which could execute code, and "
        "nothing in it was run; save `model.state_dict()` with torch.save or safetensors."
    )


def _damaged(path: Path, error: BaseException) -> ModelError:
    reason = one_line(str(error).strip().splitlines()[0] if str(error).strip() else "")
    reason = (reason or type(error).__name__)[:120].rstrip(".")
    return ModelError(
        f"`checkpoint` {shown(path)} ({path.stat().st_size} bytes) is truncated or not a "
        f"checkpoint ({SUFFIXES}): {reason}; copy or download it again."
    )
