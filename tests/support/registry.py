"""As much of a registry as one pull needs: a manifest by tag or digest, and its blobs, over HTTP on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry(NamedTuple):
    """`name` has the registry's address; `digest` is that of the manifest."""

    name: str
    digest: str


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextmanager
def registry(files: Mapping[str, bytes]) -> Iterator[Registry]:
    """Serve an image of one layer under every tag while the context lasts."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    layer = gzip.compress(archive.getvalue(), mtime=0)
    rootfs = {"type": "layers", "diff_ids": [digest_of(archive.getvalue())]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]}, "rootfs": rootfs}).encode()

    def descriptor(kind: str, content: bytes) -> dict[str, Any]:
        media_type = f"application/vnd.docker.{kind}"
        return {"mediaType": media_type, "size": len(content), "digest": digest_of(content)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": descriptor("container.image.v1+json", config),
            "layers": [descriptor("image.rootfs.diff.tar.gzip", layer)],
        }
    ).encode()
    blobs = {digest_of(content): content for content in (layer, config, manifest)}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            what = self.path.rpartition("/")[2]
            content = manifest if "/manifests/" in self.path else blobs.get(what, b"")
            self.send_response(200)
            self.send_header("Content-Type", _MANIFEST if content == manifest else "application/octet-stream")
            self.send_header("Docker-Content-Digest", digest_of(content))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Registry(f"127.0.0.1:{server.server_address[1]}/shop/api", digest_of(manifest))
        server.shutdown()
