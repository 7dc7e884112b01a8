"""Files by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["hash_of"]


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
