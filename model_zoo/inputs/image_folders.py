"""The files of a folder: links followed, splits told from classes, and what is left out named."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from liederiv.errors import ImageError
from liederiv.foreign import one_line

__all__ = ["Listing", "Split", "choose_split", "list_files"]

SPLITS = {
    "validation": ("validation", "val", "valid", "eval", "evaluation"),
    "test": ("test", "testing"),
    "train": ("train", "training"),
}
"""Names of splits, in the order in which one is chosen."""
MAX_FILES = 20_000_000


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        files: Paths relative to the folder, in no order.
        skipped: Relative path and reason of everything that is neither a file nor a folder that
            can be opened.
    """

    files: list[PurePosixPath] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """Which folder is read.

    Attributes:
        folder: The folder.
        inner: The choice that was made, as a path relative to what was given; empty without one.
        note: What is left out and is no split, in a sentence; else empty.
    """

    folder: Path
    inner: str = ""
    note: str = ""


def list_files(folder: Path) -> Listing:
    """List all files below a folder, hidden ones left out.

    Links to folders are followed as folders, each as often as it is linked to; one that leads back
    to a folder around it ends there.

    Args:
        folder: An existing folder.

    Returns:
        The files, and what was passed over.

    Raises:
        ImageError: If the folder itself cannot be opened, or links make it endless.
    """
    found = Listing()
    try:
        around = frozenset({_identity(os.stat(folder))})
        os.listdir(folder)
    except OSError as error:
        raise ImageError(
            f"`images` {one_line(folder)[:200]!r} cannot be opened ({error.strerror}); check its "
            "permissions."
        ) from error
    waiting = [(PurePosixPath(), around)]
    seen = 0
    while waiting:
        place, around = waiting.pop()
        try:
            names = os.listdir(folder / place)
        except OSError as error:
            found.skipped.append((str(place), f"folder cannot be opened ({error.strerror})"))
            continue
        seen += 1 + len(names)
        if seen > MAX_FILES:
            raise ImageError(
                f"`images` {one_line(folder)[:200]!r} leads to more than {MAX_FILES:,} files, as "
                "links that point at each other do; give a smaller folder."
            )
        for name in names:
            if not name.startswith("."):
                _visit(folder, place / name, around, found, waiting)
    return found


def _visit(
    folder: Path,
    place: PurePosixPath,
    around: frozenset[tuple[int, int]],
    found: Listing,
    waiting: list[tuple[PurePosixPath, frozenset[tuple[int, int]]]],
) -> None:
    """File one entry of a folder under files, folders or what is passed over."""
    path = folder / place
    try:
        status = os.stat(path)
    except OSError as error:
        dangling = path.is_symlink() and isinstance(error, FileNotFoundError)
        why = "a link to nothing" if dangling else f"cannot be read ({error.strerror})"
        found.skipped.append((str(place), why))
        return
    if stat.S_ISDIR(status.st_mode):
        if _identity(status) in around:
            found.skipped.append((str(place), "a link back to a folder around it"))
        else:
            waiting.append((place, around | {_identity(status)}))
    elif stat.S_ISREG(status.st_mode):
        found.files.append(place)
    else:
        found.skipped.append((str(place), "is a pipe or a device"))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def choose_split(folder: Path, split: str | None, is_image: Callable[[str], bool]) -> Split:
    """Find the split to read: the one named, else validation, test or train, in this order.

    A folder is a set of splits if it has a subfolder for validation, or if all subfolders with
    images are named as splits, or if those that are named so have subfolders (classes) themselves
    while the others hold images only. A class that happens to be called "train" among others is
    a class.

    Args:
        folder: As given.
        split: Name or relative path of a split; None leaves the choice here.
        is_image: Tells by its name whether a file may be an image.

    Returns:
        The folder to read.

    Raises:
        ImageError: If the split named is not there.
    """
    if split is not None:
        return Split(_named_split(folder, split))
    base = _single_subfolders(folder, is_image)
    below = {name: base / name for name in _subfolders(base)}
    splits = {
        kind: [name for name in below if name.lower() in names] for kind, names in SPLITS.items()
    }
    named = [name for names in splits.values() for name in names]
    if not named or not (splits["validation"] or _are_splits(below, named, is_image)):
        return Split(folder)
    first = next(names for names in splits.values() if names)
    order = list(next(s for s in SPLITS.values() if first[0].lower() in s))
    first.sort(key=lambda name: (order.index(name.lower()), name))
    chosen = below[first[0]]
    inner = chosen.relative_to(folder).as_posix()
    others = sorted(set(below) - set(named))
    if not others:
        return Split(chosen, inner)
    left = ", ".join(one_line(name)[:40] for name in others[:5]) + ", …" * (len(others) > 5)
    return Split(
        chosen,
        inner,
        f"beside the folder {one_line(inner)!r} that was read, {left} was left out (name another "
        "with `split`, --split)",
    )


def _named_split(folder: Path, split: str) -> Path:
    names = next((names for names in SPLITS.values() if split in names), ())
    try:
        for base in (folder, _single_subfolders(folder, lambda name: False)):
            for name in (split, *names):
                if name and (base / name).is_dir():
                    return base / name
    except (OSError, ValueError):
        pass  # a name that no folder can have
    raise ImageError(
        f"`images` {one_line(folder)[:200]!r} has no subfolder for `split`="
        f"{one_line(split)[:100]!r}; leave it out to read the folder itself."
    )


def _single_subfolders(folder: Path, is_image: Callable[[str], bool]) -> Path:
    """The folder that splits may lie in: data/ImageNet/{train,val} of "data"."""
    base, seen = folder, 0
    while seen < 8:
        below = _subfolders(base)
        if len(below) != 1 or below[0].lower() in _ALL or _has_images(base, is_image):
            return base
        base, seen = base / below[0], seen + 1
    return folder


_ALL = frozenset(name for names in SPLITS.values() for name in names)


def _are_splits(below: dict[str, Path], named: list[str], is_image: Callable[[str], bool]) -> bool:
    """Whether folders called as splits are such, and not classes that are called so."""
    others = [path for name, path in below.items() if name not in named]
    full = [path for path in others if _has_images(path, is_image) or _subfolders(path)]
    if not full:
        return True
    flat = all(not _subfolders(path) for path in full)
    return flat and all(_subfolders(below[name]) for name in named)


def _subfolders(folder: Path) -> list[str]:
    """Names of the visible subfolders, links to folders included."""
    try:
        return sorted(
            name
            for name in os.listdir(folder)
            if not name.startswith(".") and os.path.isdir(folder / name)
        )
    except OSError:
        return []


def _has_images(folder: Path, is_image: Callable[[str], bool]) -> bool:
    try:
        return any(is_image(name) for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return False
