"""Errors that say that a disk takes no more: they are about the machine, not about a model."""

from __future__ import annotations

import errno

from liederiv.foreign_code import causes

__all__ = ["disk_is_full"]

# No space, over quota, over the process's limit on the size of files, mounted read-only.
_FULL = frozenset(
    number
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS")
    if (number := getattr(errno, name, None)) is not None
)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether the error, or one that it comes from, is about a disk that takes no more.

    Example:
        >>> disk_is_full(OSError(errno.ENOSPC, "No space left on device"))
        True
        >>> disk_is_full(FileNotFoundError(errno.ENOENT, "No such file or directory"))
        False
    """
    return any(isinstance(e, OSError) and e.errno in _FULL for e in causes(error))
