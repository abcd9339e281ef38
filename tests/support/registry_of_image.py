"""A registry on this machine that offers one image of an engine's, for pulls only."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Offered:
    """The objects of an image by digest, and where its manifest is."""

    def __init__(self, api: docker.APIClient, image: str) -> None:
        with tarfile.open(fileobj=io.BytesIO(b"".join(api.get_image(image)))) as tar:
            files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            contents = {name: file.read() for name, file in files.items() if file is not None}
        [about] = json.loads(contents["manifest.json"])
        config = contents[about["Config"]]
        layers = [contents[name] for name in about["Layers"]]
        self.blobs = {digest(blob): blob for blob in (config, *layers)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _described(config, "application/vnd.docker.container.image.v1+json"),
            "layers": [_described(layer, "application/vnd.docker.image.rootfs.diff.tar") for layer in layers],
        }
        self.manifest = json.dumps(manifest).encode()
        self.image_id = digest(config)


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _described(content: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "size": len(content), "digest": digest(content)}


@contextmanager
def registry(api: docker.APIClient, image: str) -> Iterator[tuple[str, Offered]]:
    """Yield the address of a registry that has `image` as whatever name and tag it is asked for, and what it offers."""
    offered = Offered(api, image)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            kind, _, name = self.path.rpartition("/")
            content = offered.manifest if kind.endswith("/manifests") else offered.blobs.get(name, b"")
            if kind.endswith("/manifests") and name.startswith("sha256:") and name != digest(offered.manifest):
                content = b""
            self.send_response(200 if content or self.path == "/v2/" else 404)
            self.send_header("Content-Length", str(len(content)))
            if kind.endswith("/manifests"):
                self.send_header("Content-Type", _MANIFEST)
                self.send_header("Docker-Content-Digest", digest(content))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", offered
        finally:
            server.shutdown()
            thread.join()
