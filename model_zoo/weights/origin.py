"""Where the files of published weights lie, and whether a copy on disk is whole."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch

__all__ = ["WeightsSource", "check_file"]

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")  # the convention of torch.hub


@dataclass(frozen=True)
class WeightsSource:
    """Where published weights come from.

    Attributes:
        name: Name of the model.
        repo: Repository on the hub, else empty.
        revision: Of the repository; None for its main branch.
        files: Names to try in the repository, in this order; the first that exists counts.
        url: Address outside the hub, else empty.
        config: Whether the repository's config.json is needed to build the model.
    """

    name: str
    repo: str = ""
    revision: str | None = None
    files: tuple[str, ...] = ()
    url: str = ""
    config: bool = False

    @property
    def url_target(self) -> Path:
        """Where torch.hub keeps the file of `url`."""
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(self.url).path).name


def check_file(path: Path, expected: str = "") -> str:
    """Compare a downloaded file with its checksum.

    The hub states a file's SHA-256 (large files) or git hash (small ones), and its cache names the
    content by it; torch.hub's names end in the first digits of the SHA-256.

    Args:
        path: File or link in the hub's or torch.hub's cache.
        expected: What the hub has stated; by default what the name carries.

    Returns:
        What is wrong, in words; empty if the checksum agrees or none is known.
    """
    from huggingface_hub.utils.sha import git_hash, sha_fileobj

    # One link only: the content may itself be a link into a store with names of another kind.
    name = Path(os.readlink(path)).name if path.is_symlink() else path.name
    in_name = HASH_IN_NAME.search(name)
    expected = expected or (in_name[1] if in_name else name)
    if re.fullmatch("[0-9a-f]{8,64}", expected) is None:
        return ""
    if len(expected) == 40:
        found = git_hash(path.read_bytes())
    else:
        with path.open("rb") as stream:
            found = sha_fileobj(stream).hex()[: len(expected)]
    if found == expected:
        return ""
    return f"its checksum is {found[:12]}…, not {expected[:12]}…"
