"""As much of a registry as a pull needs: one image under every name and tag, over HTTP on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import docker

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Offered(NamedTuple):
    """What is at `address`. `digest` is that of the manifest, `image_id` that of the configuration."""

    address: str
    digest: str
    image_id: str

    @property
    def name(self) -> str:
        """A repository there, of no other registry's name."""
        return f"{self.address}/shop/api"


class Image(NamedTuple):
    """A configuration, and the layers as plain tars."""

    config: bytes
    layers: Sequence[bytes]


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def image_of_files(files: Mapping[str, bytes]) -> Image:
    """An image of one layer."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    rootfs = {"type": "layers", "diff_ids": [digest_of(archive.getvalue())]}
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]}, "rootfs": rootfs}
    return Image(json.dumps(config).encode(), [archive.getvalue()])


def image_of_engine(api: docker.APIClient, image: str) -> Image:
    """An image that an engine has."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(api.get_image(image)))) as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        contents = {name: file.read() for name, file in files.items() if file is not None}
    [about] = json.loads(contents["manifest.json"])
    return Image(contents[about["Config"]], [contents[name] for name in about["Layers"]])


@contextmanager
def registry(image: Image) -> Iterator[Offered]:
    """Serve the image while the context lasts."""
    described = [_described(layer, "image.rootfs.diff.tar") for layer in image.layers]
    config = _described(image.config, "container.image.v1+json")
    manifest = json.dumps({"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": described}).encode()
    blobs = {digest_of(content): content for content in (image.config, *image.layers)}
    own = digest_of(manifest)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind, _, name = self.path.rpartition("/")
            content = blobs.get(name, b"")
            if kind.endswith("/manifests") and (name == own or not name.startswith("sha256:")):
                content = manifest
            self.send_response(200 if content or self.path == "/v2/" else 404)
            self.send_header("Content-Type", _MANIFEST if content == manifest else "application/octet-stream")
            self.send_header("Docker-Content-Digest", digest_of(content))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Offered(f"127.0.0.1:{server.server_port}", own, digest_of(image.config))
        finally:
            server.shutdown()
            thread.join()


def _described(content: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": f"application/vnd.docker.{kind}", "size": len(content), "digest": digest_of(content)}
