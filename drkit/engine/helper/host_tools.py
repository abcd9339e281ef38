"""This host's own GNU tar, GNU find, shell and some of coreutils, packed with their libraries into an image archive.

This only reads files and runs `ldd`: no network, no engine, no build. The archive depends on the files' content alone,
so hosts with the same packages build images with the same id.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from drkit.engine.helper.archive import write_image
from drkit.errors import DrkitError

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "loongarch64": "loong64"}
HOST_ARCH = _ARCHITECTURES.get(platform.machine(), platform.machine())

# Where the image has each tool, and the names to look for on the host. The caller's PATH is not searched: programs in
# root's ~/bin have no place in a recovery.
_TOOLS = {
    "/bin/tar": ("tar", "gtar"),
    "/bin/find": ("find", "gfind"),
    "/bin/sh": ("dash", "bash", "sh"),
    "/bin/sync": ("sync",),
    "/bin/sleep": ("sleep",),
    "/bin/sha256sum": ("sha256sum",),
    "/bin/dd": ("dd",),
}
_TOOL_PATH = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin:/run/current-system/sw/bin"
_ENVIRONMENT = {"PATH": _TOOL_PATH, "LC_ALL": "C"}
_EPOCH = "1970-01-01T00:00:00Z"
_HINT = "Install GNU tar, findutils and coreutils here, or set helper.image in the policy to a stock image like alpine."


class HostImage(NamedTuple):
    """A load archive without names, the id of its image, and the digest of its only layer."""

    archive: bytes
    image_id: str
    layer: str


def host_image(labels: Mapping[str, str]) -> HostImage:
    """Pack the tools into an image with these labels."""
    tools = find_tools(_TOOL_PATH)
    for name in ("find", "tar"):
        require_gnu(name, tools[f"/bin/{name}"])
    return image_archive(_layer(with_libraries(tools)), labels)


def find_tools(path: str) -> dict[str, Path]:
    """The host's program for each tool of the image."""
    tools = {}
    for target, names in _TOOLS.items():
        found = next((program for name in names if (program := shutil.which(name, path=path))), None)
        if found is None:
            raise DrkitError(f"helper image: no {names[0]} on this host", hint=_HINT)
        tools[target] = Path(found).resolve()
    return tools


def require_gnu(name: str, path: Path) -> None:
    """Raise DrkitError for another implementation of a GNU tool (BusyBox, uutils, bsdtar)."""
    run = subprocess.run([path, "--version"], capture_output=True, text=True, env=_ENVIRONMENT, check=False)
    if "GNU" not in run.stdout.partition("\n")[0]:
        raise DrkitError(f"helper image: {path} is not GNU {name}", hint=_HINT)


def with_libraries(tools: dict[str, Path]) -> dict[str, Path]:
    """The tools, their libraries and the loader, each library at the path where the loader looks for it."""
    files = dict(tools)
    if shutil.which("ldd", path=_TOOL_PATH) is None:
        raise DrkitError("helper image: this host has no ldd to tell which libraries its tools need", hint=_HINT)
    for tool in tools.values():
        run = subprocess.run(["ldd", tool], capture_output=True, text=True, env=_ENVIRONMENT, check=False)
        if run.returncode and "not a dynamic executable" not in run.stderr:
            raise DrkitError(f"helper image: ldd {tool}: {run.stderr.strip() or run.stdout.strip()}")
        for line in run.stdout.splitlines():
            match = re.search(r"(?:=> )?(/\S+) \(0x", line)
            if match:
                path = _baseline(match[1])
                files[path] = Path(path).resolve()
            elif "not found" in line:
                raise DrkitError(f"helper image: {tool} does not run on this host: {line.strip()}")
    return files


def _baseline(path: str) -> str:
    """The variant of a library that runs on every processor of the architecture, so that the image does too."""
    plain = re.sub(r"/glibc-hwcaps/[^/]+", "", path)
    return plain if Path(plain).exists() else path


def _layer(files: dict[str, Path]) -> bytes:
    """A deterministic tar of the files: the same host tools give the same image id everywhere."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        parents = {str(parent) for target in files for parent in Path(target).parents} - {"/"}
        for directory in sorted(parents):
            entry = tarfile.TarInfo(directory.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for target in sorted(files):
            content = files[target].read_bytes()
            entry = tarfile.TarInfo(target.lstrip("/"))
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def image_archive(layer: bytes, labels: Mapping[str, str]) -> HostImage:
    """Return an image of one layer. With `docker import` its id would depend on the time."""
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = json.dumps(
        {
            "architecture": HOST_ARCH,
            "os": "linux",
            "created": _EPOCH,
            "config": {"Labels": dict(labels)},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": _EPOCH, "created_by": "drkit helper build"}],
        },
        sort_keys=True,
    ).encode()
    out = io.BytesIO()
    write_image(out, config, [(len(layer), io.BytesIO(layer))])
    return HostImage(out.getvalue(), f"sha256:{hashlib.sha256(config).hexdigest()}", diff_id)
