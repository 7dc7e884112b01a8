"""Download weights through timm, but give up at once, and in words, when no hub answers.

The hub's client retries an unreachable host for the better part of a minute before it looks into
its cache. One short connection attempt beforehand decides: without an answer the client is put
into its offline mode for the duration of the call, so that cached weights still load at once.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch

from liederiv.errors import ModelError
from liederiv.foreign import first_line

__all__ = [
    "REMEDY",
    "download_errors",
    "hub_is_offline",
    "offline_hub",
    "offline_if_unreachable",
]

PROBE_SECONDS = 4.0
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")
REMEDY = (
    "give the weights as a file with `checkpoint` (--checkpoint), fill the hub's cache on a "
    "machine with a connection and set HF_HUB_OFFLINE=1, or use random weights with "
    "`pretrained=False` (--no-pretrained)"
)


def hub_is_offline() -> bool:
    """Whether the hub's client has been told to stay offline (HF_HUB_OFFLINE=1)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Put the hub client into offline mode inside the context if the hub does not answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _reachable(constants.ENDPOINT):
        yield
        return
    with offline_hub():
        yield


@contextmanager
def offline_hub() -> Iterator[None]:
    """Put the hub client into offline mode inside the context: only its cache is asked."""
    from huggingface_hub import constants, utils

    before = constants.HF_HUB_OFFLINE
    # Older clients read the flag once for each session, so sessions are renewed around it.
    renew = getattr(utils, "reset_sessions", lambda: None)
    constants.HF_HUB_OFFLINE = True
    renew()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        renew()


@contextmanager
def download_errors(weights: str, url: str | None = None) -> Iterator[None]:
    """Turn what can go wrong in a download into one sentence.

    Args:
        weights: What is being fetched, for the message.
        url: Address of weights that lie outside the hub, if they do.

    Raises:
        ModelError: If the weights cannot be reached or do not exist.
    """
    from huggingface_hub import errors

    if url is not None and not _in_torch_cache(url) and not _reachable(url):
        raise ModelError(_unreachable(weights, urlparse(url).hostname or url))
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"Weights {weights} are gated: accept their terms on the hub and log in with "
            "'hf auth login', or give a file with `checkpoint`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"Weights {weights} do not exist on the hub, or are private; check the name, or log in "
            "with 'hf auth login'."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"Weights {weights} have no such revision; check what follows the '@'."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ModelError(_unreachable(weights, "the Hugging Face hub")) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(
            f"Weights {weights} are not in a format that timm reads: the hub's repository lacks a "
            "config.json or a weights file; check the name."
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(
            f"{weights} is not the name of a hub model; write 'hf-hub:organisation/name'."
        ) from error
    except (errors.HfHubHTTPError, URLError, ConnectionError, TimeoutError) as error:
        reason = first_line(error)
        raise ModelError(f"Weights {weights} cannot be downloaded ({reason}): {REMEDY}.") from error


def _unreachable(weights: str, host: str) -> str:
    return f"Weights {weights} are not cached here and {host} cannot be reached: {REMEDY}."


def _in_torch_cache(url: str) -> bool:
    name = Path(urlparse(url).path).name
    return (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()


def _reachable(url: str) -> bool:
    """Say whether the host of `url` accepts a connection; behind a proxy it is taken to."""
    if any(os.environ.get(name) for name in PROXIES):
        return True
    parts = urlparse(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    answer: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=PROBE_SECONDS).close()
        except OSError:
            return
        answer.append(True)

    # A thread, because looking up a host name has no timeout of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answer)
