"""Runs in a process of its own, whose environment names the test's hub before anything is imported.

Prints one JSON object: what became of each scenario.
"""

import json
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from patience import PATIENCE, wait_for

from liederiv.model_zoo import load, weights_fingerprint
from liederiv.model_zoo.sources.registry import weights_source
from liederiv.model_zoo.weights.ahead import Prefetcher, prefetch
from liederiv.model_zoo.weights.cache import CacheFullError, WeightsCache
from liederiv.model_zoo.weights.download import Fetcher, Retry

RETRY = Retry(times=3, wait=0.05, longest=0.1)
SINGLE = ("plain", "slow", "busy", "limited", "cut", "short", "corrupt", "rotten", "down",
          "absent", "missing")  # fmt: skip


def fetch(name, **options):
    with ExitStack() as kept:
        try:
            how = Fetcher(weights_source, retry=RETRY, **options)
            got = asdict(how.fetch(f"hf-hub:org/{name}", kept))
        except CacheFullError as error:
            return {"error": str(error)}
    if got["status"] == "failed":
        return {"error": got["reason"]}
    return got | {"path": str(got["path"]), "content": got["path"].read_bytes().hex()[:16]}


def kept(cache):
    return [e.repo for e in cache.entries()]


def on_disk(folder):
    return sorted(p.name for p in folder.glob("models--org--*"))


def damaged_on_disk():
    path = fetch("plain-repaired")["path"]
    with open(path, "r+b") as file:
        file.write(b"damage")
    offline = fetch("plain-repaired", offline=True)
    return {"offline": offline, "online": fetch("plain-repaired"), "again": fetch("plain-repaired")}


def bounded(root):
    cache = WeightsCache(limit=50_000, folder=root / "bounded")
    out = {"first": [fetch(f"plain-{n}-20000", cache=cache)["status"] for n in "ab"]}
    with cache.using("org/plain-a-20000"):
        fetch("plain-c-20000", cache=cache)
        out["a in use"] = on_disk(cache.folder)
        with cache.using("org/plain-c-20000"):
            out["both in use"] = fetch("plain-d-20000", cache=cache)
    fetch("plain-d-20000", cache=cache)
    out["last"] = on_disk(cache.folder)
    out["too large"] = fetch("plain-e-60000", cache=cache)
    out["books"] = kept(cache)
    return out


def foreign(root):
    """Weights that were in the cache before are neither counted nor removed."""
    fetch("plain-old-30000", cache=WeightsCache(folder=root / "foreign"))
    for book in (root / "foreign" / ".locks" / "liederiv").glob("*/entry.json"):
        book.unlink()
    cache = WeightsCache(limit=25_000, folder=root / "foreign")
    statuses = [fetch(f"plain-{n}-20000", cache=cache)["status"] for n in "ab"]
    return {"statuses": statuses, "disk": on_disk(cache.folder)}


def overlapping(root):
    names = [f"hf-hub:org/slow-{n}" for n in "abcd"]
    cache = WeightsCache(folder=root / "overlap")
    came, states = [], []
    with Prefetcher(names, Fetcher(weights_source, cache, RETRY)) as fetcher:
        for name, following in zip(names, [*names[1:], None], strict=True):
            with fetcher.using(name) as fetched:
                states.append(fetched.status)
                if following is not None:  # the measurement lasts until the next one is there
                    repo = f"models--org--{following.rpartition('/')[2]}"
                    folder = fetched.path.parents[3] / repo
                    came.append(wait_for(lambda f=folder: any(f.glob("snapshots/*/*.safetensors"))))
    return {"came_during_the_measurement": came, "states": states}


def tight(root):
    """A limit that holds one model at a time, and two threads that ask out of order."""
    names = [f"hf-hub:org/plain-{n}-20000" for n in "abcdef"]
    cache = WeightsCache(limit=45_000, folder=root / "tight")
    states, largest = {}, []
    how = Fetcher(weights_source, cache, RETRY)
    with Prefetcher(names, how, ahead=2, patience=PATIENCE) as fetcher:

        def work(mine):
            for name in mine:
                with fetcher.using(name) as fetched:
                    states[name] = fetched.status if fetched.path.is_file() else "gone"
                    largest.append(sum(e.size for e in cache.entries()))
                    time.sleep(0.02)

        threads = [threading.Thread(target=work, args=(m,)) for m in (names[::2], names[::-2])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {"states": states, "largest": max(largest)}


def waiting(root):
    """There is no room for what is asked for until what is in use has been used."""
    held, name = (f"hf-hub:org/plain-{n}-20000" for n in ("held", "waits"))
    how = Fetcher(weights_source, WeightsCache(25_000, root / "waiting"), RETRY)
    with Prefetcher([held, name], how, ahead=0, patience=PATIENCE) as fetcher:
        with fetcher.using(held):
            fetcher.request(name)
            time.sleep(0.7)
            early = fetcher.poll(name)
        with fetcher.using(name) as fetched:
            return {"early": early, "status": fetched.status}


def all_at_once(root):
    cache = WeightsCache(limit=50_000, folder=root / "all")
    names = [
        f"hf-hub:org/{n}" for n in ("plain-a-20000", "absent", "plain-b-20000", "plain-c-20000")
    ]
    return [
        asdict(f) | {"path": None} for f in prefetch(names, Fetcher(weights_source, cache, RETRY))
    ]


def real_model():
    """A timm model whose repository this hub holds: fetched once, loaded without the hub."""
    fetched = fetch("real")
    return {"status": fetched["status"], "path": fetched["path"]}


def loaded_offline():
    return {"fingerprint": weights_fingerprint(load("hf-hub:org/real").model)}


if __name__ == "__main__":
    from pathlib import Path

    root = Path(sys.argv[2])
    if sys.argv[1] == "offline":
        print(json.dumps(loaded_offline()))
    else:
        found = {name: fetch(name) for name in SINGLE}
        found["plain again"] = fetch("plain")
        found["no download"] = asdict(
            next(prefetch(["tf_efficientnet_lite0"], Fetcher(weights_source)))
        )
        for scenario in (bounded, foreign, overlapping, tight, waiting, all_at_once):
            found[scenario.__name__] = scenario(root)
        found["damaged on disk"] = damaged_on_disk()
        found["real"] = real_model()
        print(json.dumps(found))
