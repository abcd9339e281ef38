"""A volume plugin of the engine, on a socket of its own, that can die and come back."""

from __future__ import annotations

import json
import socketserver
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

SPECS = Path("/etc/docker/plugins")
"""Where every engine of a machine looks for plugins, unless something else is mounted there for it."""


class VolumePlugin:
    """Lives while it is entered, but for the time between `die` and `revive`.

    It is announced in `specs`, which one engine takes for `SPECS`: an engine that has once seen a plugin waits for it
    at every listing, for as long as the engine runs.
    """

    def __init__(self, name: str, directory: Path, specs: Path) -> None:
        self.name = name
        self._socket = directory / "plugin.sock"
        self._spec = specs / f"{name}.spec"
        self._data = directory / "plugin-data"
        self._volumes: set[str] = set()
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    def __enter__(self) -> VolumePlugin:
        self._data.mkdir()
        self.revive()
        self._spec.write_text(f"unix://{self._socket}\n")
        return self

    def __exit__(self, *error: object) -> None:
        self.die()

    def die(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def revive(self) -> None:
        self._socket.unlink(missing_ok=True)
        plugin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = json.dumps(plugin._answer(self.path, json.loads(asked or b"{}"))).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(answer)

            def address_string(self) -> str:
                return "engine"

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = socketserver.ThreadingUnixStreamServer(str(self._socket), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked.get("Name")
        volume = {"Name": name, "Mountpoint": str(self._data)}
        match path.rpartition(".")[2]:
            case "Activate":
                return {"Implements": ["VolumeDriver"]}
            case "Capabilities":
                return {"Capabilities": {"Scope": "local"}}
            case "Create":
                self._volumes.add(str(name))
            case "Remove":
                self._volumes.discard(str(name))
            case "Get" if name in self._volumes:
                return {"Volume": volume, "Err": ""}
            case "Get":
                return {"Err": "no such volume"}
            case "List":
                return {"Volumes": [{"Name": each, "Mountpoint": str(self._data)} for each in self._volumes], "Err": ""}
            case "Mount" | "Path":
                return {"Mountpoint": str(self._data), "Err": ""}
        return {"Err": ""}
