"""Weights from a hub that is slow, busy, truncating or wrong: the real client, a server of ours."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import timm
from hub_server import serve
from patience import PATIENCE
from safetensors.torch import save

from liederiv.errors import LieDerivError
from liederiv.model_zoo import weights_fingerprint
from liederiv.model_zoo.sources.registry import weights_source
from liederiv.model_zoo.weights.ahead import Prefetcher
from liederiv.model_zoo.weights.cache import CacheFullError, WeightsCache, parse_size
from liederiv.model_zoo.weights.download import Fetcher
from liederiv.model_zoo.weights.origin import check_file

CLIENT = Path(__file__).with_name("hub_client.py")


@pytest.fixture(scope="module")
def model():
    return timm.create_model("test_resnet").eval()


@pytest.fixture(scope="module")
def session(tmp_path_factory, model):
    """What the client's scenarios came to, what the server was asked, and the environment."""
    root = tmp_path_factory.mktemp("hub")
    with serve() as (address, hub):
        hub.files["org/real", "model.safetensors"] = save(model.state_dict())
        hub.files["org/real", "config.json"] = json.dumps(
            {"architecture": "test_resnet", "pretrained_cfg": model.pretrained_cfg}, default=str
        ).encode()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": address,
            "HF_HUB_CACHE": str(root / "cache"),
            "HF_HOME": str(root / "home"),
            "HF_HUB_DOWNLOAD_TIMEOUT": str(int(PATIENCE)),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        found = client("online", root, environment)
        yield found, hub, root, environment


def client(mode, root, environment):
    done = subprocess.run(
        [sys.executable, str(CLIENT), mode, str(root)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(session):
    return session[0]


@pytest.mark.parametrize(
    ("kind", "attempts"),
    [("plain", 1), ("slow", 1), ("busy", 3), ("limited", 3), ("cut", 1), ("short", 2),
     ("corrupt", 2)],
)  # fmt: skip
def test_weights_arrive_whole_in_the_end(session, kind, attempts):
    found, hub, *_ = session
    assert found[kind]["status"] == "downloaded"
    assert found[kind]["content"] == hub.content(f"org/{kind}", "model.safetensors").hex()[:16]
    assert found[kind]["size"] == 20_000
    # A cut connection is taken up by the hub's client itself.
    assert found[kind]["attempts"] == attempts


def test_the_server_did_what_the_test_is_about(session):
    _, hub, *_ = session
    weights = "model.safetensors"
    assert hub.asked["GET", "org/busy", weights] == 2
    assert hub.asked["GET", "org/cut", weights] == 2
    assert hub.asked["GET", "org/short", weights] >= 2
    assert hub.asked["GET", "org/rotten", weights] == 4


def test_server_that_asks_to_wait_is_obeyed(session):
    found, hub, *_ = session
    asked = [
        t
        for t, method, repo, file in hub.log
        if (method, repo, file) == ("HEAD", "org/limited", "config.json")
    ]
    assert asked[1] - asked[0] >= 1.0
    assert found["limited"]["seconds"] >= 1.0


def test_what_is_on_disk_is_not_asked_for_again(session):
    found, hub, *_ = session
    assert found["plain again"]["status"] == "cached"
    assert hub.asked["HEAD", "org/plain", "model.safetensors"] <= 2
    assert hub.asked["GET", "org/plain", "model.safetensors"] == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("down", r"Weights hf-hub:org/down cannot be downloaded in 4 attempts \(.*503.*\): give"),
        ("rotten", r"in 4 attempts \(the file arrives damaged: its checksum is \w{12}…, not"),
        ("absent", "Weights hf-hub:org/absent do not exist on the hub, or are private"),
        ("missing", "Weights hf-hub:org/missing are not in a format that timm reads"),
    ],
)
def test_weights_that_cannot_be_had(found, kind, message):
    assert re.search(message, found[kind]["error"])


def test_damaged_weights_are_not_left_behind(session):
    *_, root, _ = session
    assert not list((root / "cache" / "models--org--rotten").rglob("model.safetensors"))


def test_damage_on_disk_is_found_and_repaired(session):
    found, hub, *_ = session
    case = found["damaged on disk"]
    assert "are damaged (its checksum is" in case["offline"]["error"]
    assert case["online"]["status"] == "downloaded"
    assert (
        case["online"]["content"]
        == hub.content("org/plain-repaired", "model.safetensors").hex()[:16]
    )
    assert case["again"]["status"] == "cached"


def test_least_recently_used_weights_make_room(found):
    case = found["bounded"]
    a, c, d = (f"models--org--plain-{n}-20000" for n in "acd")
    assert case["first"] == ["downloaded", "downloaded"]
    # b is older than a only in that nobody uses it.
    assert case["a in use"] == [a, c]
    assert "is taken up by weights in use" in case["both in use"]["error"]
    # The use of c ended before that of a.
    assert case["last"] == [a, d]
    error = case["too large"]["error"]
    assert "is less than the weights of org/plain-e-60000 alone (60 kB)" in error
    assert sorted(case["books"]) == ["org/plain-a-20000", "org/plain-d-20000"]


def test_what_others_keep_in_the_cache_stays(found):
    assert found["foreign"]["statuses"] == ["downloaded", "downloaded"]
    assert found["foreign"]["disk"] == [
        "models--org--plain-b-20000",
        "models--org--plain-old-30000",
    ]


def test_downloads_overlap_with_measurements(found):
    case = found["overlapping"]
    assert case["states"] == ["downloaded"] * 4
    assert case["came_during_the_measurement"] == [True] * 3


def test_a_tight_limit_neither_blocks_nor_breaks(found):
    case = found["tight"]
    assert sorted(case["states"]) == [f"hf-hub:org/plain-{n}-20000" for n in "abcdef"]
    assert set(case["states"].values()) <= {"downloaded", "cached"}
    assert case["largest"] <= 45_000


def test_a_full_cache_is_no_reason_to_pester_the_hub(session):
    found, hub, *_ = session
    assert found["waiting"] == {"early": None, "status": "downloaded"}
    assert hub.asked["HEAD", "org/plain-waits-20000", "model.safetensors"] <= 6


def test_prefetching_all_keeps_what_fits(found):
    statuses = [f["status"] for f in found["all_at_once"]]
    assert statuses == ["downloaded", "failed", "downloaded", "failed"]
    assert "--cache-limit" in found["all_at_once"][3]["reason"]


def test_installed_weights_need_no_download(found):
    assert found["no download"]["status"] == "not needed"


def test_prefetched_model_loads_without_the_hub(session, model):
    found, hub, root, environment = session
    assert found["real"]["status"] == "downloaded"
    before = sum(hub.asked.values())
    loaded = client("offline", root, environment | {"HF_HUB_OFFLINE": "1"})
    assert loaded["fingerprint"] == weights_fingerprint(model)
    assert sum(hub.asked.values()) == before


def test_source_of_weights():
    source = weights_source("resnet18.a1_in1k")
    assert source.repo == "timm/resnet18.a1_in1k"
    assert source.files == ("model.safetensors", "pytorch_model.bin")
    other = weights_source("legacy_seresnet18.in1k")
    assert other.url.endswith("seresnet18-4bb0ce65.pth")
    assert other.target.name == "seresnet18-4bb0ce65.pth"
    assert weights_source("hf-hub:me/net@v2").revision == "v2"
    assert weights_source("local-dir:/tmp/x") is None
    assert weights_source("mypackage.models:build") is None
    assert weights_source("mixnet_xxl") is None
    assert weights_source("rapidash_tn") is None


def test_checksum_in_a_name(tmp_path):
    path = tmp_path / "net-2cf24dba5fb0.pth"
    path.write_bytes(b"hello")
    assert check_file(path) == ""
    path.write_bytes(b"hellp")
    assert "not 2cf24dba5fb0…" in check_file(path)
    plain = tmp_path / "net.pth"
    plain.write_bytes(b"hello")
    assert check_file(plain) == ""
    assert check_file(plain, "0" * 64) != ""


@pytest.mark.parametrize("text", ["", "many", "-1GB", "0", "10 XB", "1e400GB"])
def test_no_size(text):
    with pytest.raises(LieDerivError, match=r"--cache-limit=.* is no size; write for example 20GB"):
        parse_size(text)


A, B, OLD = ("a" * 40, "b" * 40, "c" * 40)


def lay_out(root, repo, commit, files):
    """A revision as the hub's client leaves it."""
    folder = root / f"models--{repo.replace('/', '--')}"
    for name, size in files.items():
        blob = folder / "blobs" / f"{name}-{commit}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(b"1" * size)
        (folder / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / commit / name).symlink_to(blob)


def revisions(root):
    found = root.glob("models--*/snapshots/*")
    return sorted(f"{p.parents[1].name.removeprefix('models--')}/{p.name}" for p in found)


def test_only_what_was_downloaded_is_deleted(tmp_path):
    """Not the same commit under an older name, nor another revision, nor beside others' files."""
    lay_out(tmp_path, "org/old-name", A, {"w": 8})
    lay_out(tmp_path, "org/name", OLD, {"w": 8})
    lay_out(tmp_path, "org/before", A, {"theirs": 8})
    cache = WeightsCache(limit=10, folder=tmp_path)
    for repo in ("org/name", "org/my--net", "org/before", "org/after"):
        cache.reserve(repo, A, {"w": 8})
        lay_out(tmp_path, repo, A, {"w": 8})
    lay_out(tmp_path, "org/after", A, {"theirs": 8})
    cache.reserve("org/b", B, {"w": 8})
    kept = [f"org--after/{A}", f"org--before/{A}", f"org--name/{OLD}", f"org--old-name/{A}"]
    assert revisions(tmp_path) == kept
    assert len(list(tmp_path.glob("models--*/snapshots/*/*"))) == 6
    assert cache.entries() == []  # all of it is others'


def test_what_cannot_be_deleted_is_not_counted_as_room(tmp_path):
    cache = WeightsCache(limit=10, folder=tmp_path)
    cache.reserve("org/a", A, {"w": 8, "x": 0})
    lay_out(tmp_path, "org/a", A, {"w": 8, "x": 0})
    (tmp_path / "models--org--a" / "blobs" / f"x-{A}").unlink()  # the hub's client steps back
    with pytest.raises(CacheFullError, match="in use or undeletable, and org/b needs 8 B"):
        cache.reserve("org/b", B, {"w": 8})
    assert [e.repo for e in cache.entries()] == ["org/a"]


@pytest.mark.parametrize("book", ["", "[]", "{}", '{"repo": "org/a", "commits": {"x": 3}}'])
def test_a_book_that_is_not_ours_is_passed_over(tmp_path, book):
    cache = WeightsCache(limit=10, folder=tmp_path)
    cache.reserve("org/a", A, {"w": 8})
    (path,) = tmp_path.rglob("entry.json")
    path.write_text(book)
    assert cache.entries() == []
    cache.reserve("org/b", B, {"w": 8})


USER = """
import os, sys
from liederiv.model_zoo.weights.cache import WeightsCache
lease = WeightsCache(10, sys.argv[1]).using("org/a")
lease.__enter__()
print("uses it", flush=True)
sys.stdin.read()
os._exit(9)
"""


def test_what_a_living_process_uses_stays_and_a_dead_one_holds_nothing(tmp_path):
    cache = WeightsCache(limit=10, folder=tmp_path)
    cache.reserve("org/a", A, {"w": 8})
    lay_out(tmp_path, "org/a", A, {"w": 8})
    command = [sys.executable, "-c", USER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout.readline() == b"uses it\n"
        with pytest.raises(CacheFullError, match="in use or undeletable, and org/b needs 8 B"):
            cache.reserve("org/b", B, {"w": 8})
        assert revisions(tmp_path) == [f"org--a/{A}"]
        assert [e.in_use for e in cache.entries()] == [True]
        user.stdin.close()
    assert [e.in_use for e in cache.entries()] == [False]
    cache.reserve("org/b", B, {"w": 8})
    lay_out(tmp_path, "org/b", B, {"w": 8})
    assert [e.repo for e in cache.entries()] == ["org/b"]
    assert revisions(tmp_path) == [f"org--b/{B}"]


def test_an_unwritable_cache_can_be_read(tmp_path):
    (tmp_path / ".locks").write_text("a file where a folder is needed")
    with WeightsCache(folder=tmp_path).using("org/a"):
        pass
    with pytest.raises(LieDerivError, match=r"the cache .* cannot be written to"):
        WeightsCache(folder=tmp_path).reserve("org/a", A, {"w": 1})


def test_closing_gives_up_what_has_not_begun(tmp_path):
    begun, go = threading.Event(), threading.Event()

    def slow(name):
        begun.set()
        assert go.wait(20)
        return None

    fetcher = Prefetcher(["a", "b"], Fetcher(slow, WeightsCache(folder=tmp_path)))
    fetcher.request("a")
    assert begun.wait(20)
    assert fetcher.poll("a") is None
    fetcher.request("b")
    fetcher.close(at_once=True)  # although the download goes on
    fetched, _ = fetcher.poll("b")
    assert (fetched.status, fetched.reason) == ("failed", "the scan was stopped")
    go.set()


def test_any_error_of_a_download_is_a_result(tmp_path):
    def full(name):
        raise OSError(28, "No space left on device")

    with (
        Prefetcher(["a"], Fetcher(full, WeightsCache(folder=tmp_path))) as fetcher,
        fetcher.using("a") as fetched,
    ):
        assert fetched.status == "failed"
        assert "No space left on device" in fetched.reason


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_has_ended(tmp_path):
    def leaves(name):
        raise SystemExit

    with (
        Prefetcher(["a"], Fetcher(leaves, WeightsCache(folder=tmp_path))) as fetcher,
        fetcher.using("a") as fetched,
    ):
        assert fetched.status == "failed"
