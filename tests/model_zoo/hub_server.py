"""A small server on the loopback interface that answers like the hub, and misbehaves on request.

Each repository `org/NAME` holds `model.safetensors` (bytes that differ by name) and `config.json`.
What its name starts with says how it behaves; see `Hub.answer`.
"""

import hashlib
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def commit(repo):
    """Unique, as commits are."""
    return hashlib.sha1(repo.encode()).hexdigest()


class Hub:
    """What the server knows, and what it was asked."""

    def __init__(self):
        self.files = {}  # (repo, file) → bytes
        self.asked = Counter()  # (method, repo, file) → requests
        self.log = []  # (seconds, method, repo, file)

    def content(self, repo, file):
        if (repo, file) in self.files:
            return self.files[repo, file]
        size = int(repo.rsplit("-", 1)[-1]) if repo.rsplit("-", 1)[-1].isdigit() else 20_000
        if file == "model.safetensors" and not repo.startswith("org/missing"):
            return (hashlib.sha256(repo.encode()).digest() * (size // 32 + 1))[:size]
        return b"{}" if file == "config.json" else None


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.respond(body=False)

        def do_GET(self):
            self.respond(body=True)

        def respond(self, body):
            repo, _, rest = self.path.lstrip("/").partition("/resolve/")
            file = rest.partition("/")[2]
            kind = repo.removeprefix("org/").partition("-")[0]
            method = "GET" if body else "HEAD"
            hub.asked[method, repo, file] += 1
            hub.log.append((time.monotonic(), method, repo, file))
            count = hub.asked[method, repo, file]
            content = hub.content(repo, file)
            weights = file == "model.safetensors"
            if kind == "down" or (kind == "busy" and count == 1 and weights):
                return self.fail(503)
            if kind == "limited" and count == 1 and not body:
                return self.fail(429, {"Retry-After": "1"})
            if kind == "absent":
                return self.fail(404, {"X-Error-Code": "RepoNotFound"})
            if content is None:
                return self.fail(
                    404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(repo)}
                )
            self.deliver(repo, kind, file, content, body, count)

        def fail(self, status, headers=None):
            self.send_response(status)
            for name, value in {"Content-Length": "0", **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()

        def deliver(self, repo, kind, file, content, body, count):
            weights = file == "model.safetensors"
            digest = hashlib.sha256(content).hexdigest()
            if weights and body and (kind == "rotten" or (kind == "corrupt" and count == 1)):
                content = bytes(b ^ 255 for b in content)
            if weights and body and kind == "short" and count == 1:
                content = content[:-100]
            start = 0
            asked = self.headers.get("Range")
            if asked and body:
                start = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{digest}"')
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Repo-Commit", commit(repo))
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            rest = content[start:]
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if not body:
                return
            if weights and kind == "cut" and count == 1:
                self.wfile.write(rest[: len(rest) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if weights and kind == "slow":
                for i in range(0, len(rest), len(rest) // 5 or 1):
                    self.wfile.write(rest[i : i + (len(rest) // 5 or 1)])
                    self.wfile.flush()
                    time.sleep(0.1)
                return
            self.wfile.write(rest)

    return Handler


@contextmanager
def serve():
    """Yields the address and the `Hub`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", hub
    finally:
        server.shutdown()
        server.server_close()
