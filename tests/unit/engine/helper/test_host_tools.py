"""The image from the host's own tools: what is packed, and what is refused, without any engine."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from drkit.engine.helper import host_tools
from drkit.errors import DrkitError


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: member for member in tar}


def content(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def test_the_same_tools_make_the_same_image() -> None:
    first = host_tools.host_image({"a": "b"})
    assert first == host_tools.host_image({"a": "b"})
    manifest = json.loads(content(first.archive, "manifest.json"))
    assert [image["RepoTags"] for image in manifest] == [None]
    config = content(first.archive, manifest[0]["Config"])
    assert first.image_id == f"sha256:{hashlib.sha256(config).hexdigest()}"
    assert json.loads(config)["rootfs"]["diff_ids"] == [first.layer]
    assert len(first.archive) < 16_000_000


def test_the_tools_run_with_nothing_but_the_image(tmp_path: Path) -> None:
    archive = host_tools.host_image({"a": "b"}).archive
    manifest = json.loads(content(archive, "manifest.json"))[0]
    config = json.loads(content(archive, manifest["Config"]))
    assert config["created"] == "1970-01-01T00:00:00Z" and config["config"]["Labels"] == {"a": "b"}
    layer = content(archive, manifest["Layers"][0])
    assert {"bin/tar", "bin/find", "bin/sh", "bin/sync"} <= members(layer).keys()
    assert not {"volume", "drkit"} & members(layer).keys(), "the mount points must be absent"
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        tar.extractall(tmp_path, filter="tar")
    for command in ("tar --version", "find / -maxdepth 0 -printf '%p GNU'"):
        done = subprocess.run(
            ["chroot", tmp_path, "/bin/sh", "-c", command], capture_output=True, text=True, check=True
        )
        assert "GNU" in done.stdout
    subprocess.run(["chroot", tmp_path, "/bin/sync", "-f", "/"], check=True)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_another_tar_is_refused(tmp_path: Path) -> None:
    other = script(tmp_path / "tar", "echo 'tar (busybox) 1.36.1'")
    with pytest.raises(DrkitError, match="is not GNU tar") as caught:
        host_tools.require_gnu("tar", other)
    assert caught.value.hint and "helper.image" in caught.value.hint


def test_a_host_without_the_tools_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(DrkitError, match="no tar on this host") as caught:
        host_tools.find_tools(str(tmp_path))
    assert caught.value.hint


def test_a_tool_whose_library_is_missing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "ldd", "echo '\tlibgone.so.1 => not found'")
    monkeypatch.setattr(host_tools, "_TOOL_PATH", str(tmp_path))
    monkeypatch.setattr(host_tools, "_ENVIRONMENT", {"PATH": str(tmp_path)})
    with pytest.raises(DrkitError, match="does not run on this host"):
        host_tools.with_libraries({"/bin/tar": Path("/usr/bin/tar")})


def test_static_tools_need_no_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "ldd", "echo '\tnot a dynamic executable' >&2; exit 1")
    monkeypatch.setattr(host_tools, "_TOOL_PATH", str(tmp_path))
    monkeypatch.setattr(host_tools, "_ENVIRONMENT", {"PATH": f"{tmp_path}:/bin"})
    tools = {"/bin/tar": Path("/usr/bin/tar")}
    assert host_tools.with_libraries(tools) == tools
