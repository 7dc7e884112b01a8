"""Where published weights lie: in a repository of the hub, or at an address of their own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import torch

from .cache import WeightsCache

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

__all__ = ["HubWeights", "WebWeights", "WeightsSource", "check_file"]

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")  # the convention of torch.hub


@dataclass(frozen=True)
class HubWeights:
    """Weights in a repository of the hub.

    Attributes:
        name: Of the model.
        repo: On the hub.
        files: Names to try, in this order; the first that exists counts.
        revision: Of the repository; None for its main branch.
        config: Whether the repository's config.json is needed to build the model.
    """

    name: str
    repo: str
    files: tuple[str, ...]
    revision: str | None = None
    config: bool = False

    @property
    def label(self) -> str:
        """In a sentence."""
        return f"hf-hub:{self.repo}"

    def on_disk(self, cache: WeightsCache) -> Path | None:
        """The file in the hub's cache."""
        from huggingface_hub import try_to_load_from_cache

        def cached(file: str) -> Path | None:
            found = try_to_load_from_cache(self.repo, file, cache.folder, self.revision)
            return Path(found) if isinstance(found, str) else None

        if self.config and cached("config.json") is None:
            return None
        return next((p for p in map(cached, self.files) if p is not None), None)

    def download(self, cache: WeightsCache, again: bool) -> tuple[Path, str]:
        """The file and the checksum that the hub states."""
        from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

        def fetch(file: str, again: bool) -> Path:
            where, revision = cache.folder, self.revision
            path = hf_hub_download(
                self.repo, file, revision=revision, cache_dir=where, force_download=again
            )
            return Path(path)

        def about(file: str) -> HfFileMetadata:
            # Asked for on its own, it comes or fails at once: waiting is up to us.
            return get_hf_file_metadata(hf_hub_url(self.repo, file, revision=self.revision))

        sizes = {"config.json": about("config.json").size or 0} if self.config else {}
        for file in self.files:
            try:
                found = about(file)
                break
            except errors.EntryNotFoundError:
                if file == self.files[-1]:
                    raise
        cache.reserve(self.repo, found.commit_hash or "", sizes | {file: found.size or 0})
        for small in sizes:
            fetch(small, again=False)
        return fetch(file, again), found.etag or ""


@dataclass(frozen=True)
class WebWeights:
    """Weights at an address outside the hub, which torch.hub keeps; they count towards no limit.

    Attributes:
        name: Of the model.
        url: Of the file.
    """

    name: str
    url: str

    @property
    def label(self) -> str:
        """In a sentence."""
        return self.url

    @property
    def target(self) -> Path:
        """Where torch.hub keeps the file; its name may carry a checksum."""
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(self.url).path).name

    def on_disk(self, cache: WeightsCache) -> Path | None:
        """The file in torch.hub's folder."""
        return self.target if self.target.is_file() else None

    def download(self, cache: WeightsCache, again: bool) -> tuple[Path, str]:
        """The file; no checksum is stated."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(self.url, str(self.target), progress=False)
        return self.target, ""


WeightsSource = HubWeights | WebWeights


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
