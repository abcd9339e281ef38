"""What a helper image really keeps on this engine: an archive of everything difficult is extracted and read back."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass

from drkit.engine import volumes
from drkit.engine.client import Engine
from drkit.engine.helper.image import HelperImage
from drkit.engine.helper.launch import Transport, run_helper
from drkit.engine.helper.pax import pax_record
from drkit.engine.helper.process import HelperProcess
from drkit.engine.helper.reading import RECORD_END, STOCK_RECORD_END, Reading, start_capture
from drkit.engine.helper.writing import start_extract
from drkit.engine.labels import LABEL_HELPER
from drkit.errors import DrkitError

_MTIME = "1500000000.123456789"
_ODD_NAME = b"./odd \\ name\n\xff"
# cap_net_bind_service=ep; and owner rw-, user 4242 r--, group ---, mask r--, other --- as the kernel stores it.
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
_ACL = bytes.fromhex("02000000 01000600ffffffff 02000400 92100000 04000000ffffffff 10000400ffffffff 20000000ffffffff")
_SPARSE_SIZE = 1 << 30

# What a helper must keep for its captures to count as complete. Xattrs and sparseness also depend on the file system.
_STOCK_ESSENTIAL = ("owner and mode", "hard links", "symbolic links")
_ESSENTIAL = (*_STOCK_ESSENTIAL, "nanosecond mtime", "odd names")


@dataclass(frozen=True)
class HelperProbe:
    """What was found. `checks`: whether each thing tried came back; `uid_map` shows a remapped user namespace."""

    helper: HelperImage
    transport: str
    checks: dict[str, bool]
    uid_map: str

    @property
    def missing(self) -> list[str]:
        """What it must keep, and does not. A BusyBox helper keeps less by its nature."""
        return [name for name in (_ESSENTIAL if self.helper.full else _STOCK_ESSENTIAL) if not self.checks[name]]

    @property
    def complete(self) -> bool:
        return all(self.checks[name] for name in _ESSENTIAL)


def probe_helper(
    engine: Engine,
    helper: HelperImage,
    *,
    volume: str,
    run_id: str = "probe",
    transport: Transport = "auto",
    trusted_xattrs: bool = True,
) -> HelperProbe:
    """Run the helper as a backup and a restore would, on the scratch volume `volume`, which is made and removed.

    `trusted_xattrs` gives it the capability for these, as a policy can; a helper that is not trusted never gets it.
    """
    trusted_xattrs = trusted_xattrs and helper.privileged
    confinement, uid_map = _confinement(engine, helper, run_id, transport)
    volumes.create(engine, volume, labels={LABEL_HELPER: run_id})
    try:
        with start_extract(
            engine, helper, volume, run_id=run_id, trusted_xattrs=trusted_xattrs, durable=False, transport=transport
        ) as process:
            process.write(_archive(odd_names=helper.full))
            process.finish()  # it complains about what it cannot keep; only what can be read back counts
        with start_capture(
            engine, helper, volume, run_id=run_id, trusted_xattrs=trusted_xattrs, transport=transport
        ) as process:
            scan = _read_scan(process, RECORD_END if helper.full else STOCK_RECORD_END)
            listing = b"".join(path + b"\0" for path in sorted(_paths(helper, scan)))
            process.write(Reading.HOLES_TOLD.encode() + b"\n" + listing)
            process.close_stdin()
            kept = _read_all(process)
            used = process.transport
    finally:
        volumes.remove(engine, volume)
    return HelperProbe(helper, used, {**confinement, **_compare(helper, scan, kept)}, uid_map)


def _confinement(engine: Engine, helper: HelperImage, run_id: str, transport: Transport) -> tuple[dict[str, bool], str]:
    """The hardening as the helper itself sees it."""
    script = r"""
        while read -r line; do printf 'net %s\n' "$line"; done </proc/net/dev
        while read -r key value; do [ "$key" != CapEff: ] || printf 'cap %s\n' "$value"; done </proc/self/status
        read -r map </proc/self/uid_map; printf 'map %s\n' "$map"
        (: >/drkit-probe) 2>/dev/null || printf 'root read-only\n'
    """
    output, _ = run_helper(engine, helper.image_id, script, run_id=run_id, transport=transport)
    lines = output.decode(errors="replace").splitlines()
    devices = [line for line in lines if line.startswith("net ") and ":" in line]
    dac_read_search = f"{1 << 2:016x}"
    return {
        "no network": bool(devices) and all(line.startswith("net lo:") for line in devices),
        "only the capability to read": f"cap {dac_read_search}" in lines,
        "read-only root": "root read-only" in lines,
    }, next((" ".join(line.split()[1:]) for line in lines if line.startswith("map ")), "")


def _archive(*, odd_names: bool) -> bytes:
    """The archive of everything difficult, in the format of captures."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def add(
            name: bytes, kind: bytes, mode: int = 0o640, *, data: bytes = b"", link: str = "", **pax: bytes
        ) -> None:
            records = {"mtime": _MTIME.encode(), **{key.replace("__", "."): value for key, value in pax.items()}}
            if name == _ODD_NAME:
                records["path"] = name
            header = tarfile.TarInfo("PaxHeaders/x")
            body = b"".join(pax_record(key.encode(), value) for key, value in records.items())
            header.type, header.size = tarfile.XHDTYPE, len(body)
            tar.addfile(header, io.BytesIO(body))
            entry = tarfile.TarInfo("odd" if name == _ODD_NAME else name.decode())
            entry.type, entry.mode, entry.uid, entry.gid, entry.size = kind, mode, 4242, 4343, len(data)
            entry.linkname, entry.devmajor, entry.devminor = link, 1, 3
            tar.addfile(entry, io.BytesIO(data))

        add(b".", tarfile.DIRTYPE, 0o2751)
        add(b"./acl", tarfile.REGTYPE, SCHILY__xattr__system__posix_acl_access=_ACL)
        add(b"./capability", tarfile.REGTYPE, 0o755, SCHILY__xattr__security__capability=_CAPABILITY)
        add(b"./device", tarfile.CHRTYPE)
        add(b"./fifo", tarfile.FIFOTYPE)
        add(b"./file", tarfile.REGTYPE, 0o4750, data=b"content")
        add(b"./hard", tarfile.LNKTYPE, link="./file")
        add(b"./link", tarfile.SYMTYPE, 0o777, link="/nowhere")
        if odd_names:
            add(_ODD_NAME, tarfile.REGTYPE)
        holes = f"1\n{_SPARSE_SIZE - 4096}\n4096\n".encode().ljust(512, b"\0")
        add(
            b"./sparse",
            tarfile.REGTYPE,
            data=holes + b"x" * 4096,
            GNU__sparse__major=b"1",
            GNU__sparse__minor=b"0",
            GNU__sparse__name=b"./sparse",
            GNU__sparse__realsize=str(_SPARSE_SIZE).encode(),
        )
        add(b"./trusted", tarfile.REGTYPE, SCHILY__xattr__trusted__drkit=b"kept")
        add(b"./xattr", tarfile.REGTYPE, SCHILY__xattr__user__drkit=b"kept")
    return out.getvalue()


def _read_scan(process: HelperProcess, end: bytes) -> list[bytes]:
    """Return the records of find, without the list of mounts and the end record."""
    output = bytearray()
    buffer = memoryview(bytearray(1 << 16))
    while not (output.endswith(end) and output.rpartition(b"\0end ")[2].removesuffix(end).isdigit()):
        count = process.readinto(buffer)
        if not count:
            raise DrkitError(f"helper: its scan ended early ({process.finish().describe()})")
        output += buffer[:count]
    return bytes(output).split(end)[1:-2]


def _paths(helper: HelperImage, scan: list[bytes]) -> list[bytes]:
    if not helper.full:
        return scan
    names = [record.partition(b"\0")[0] for record in scan]
    return [b"./" + name if name else b"." for name in names]


def _read_all(process: HelperProcess) -> bytes:
    output = bytearray()
    buffer = memoryview(bytearray(1 << 16))
    while count := process.readinto(buffer):
        output += buffer[:count]
    process.finish()
    return bytes(output)


def _compare(helper: HelperImage, scan: list[bytes], archive: bytes) -> dict[str, bool]:
    """Whether each difficulty came back."""
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as tar:
        found = {member.name.removeprefix("./"): member for member in tar}
    file, link, sparse = found.get("file"), found.get("link"), found.get("sparse")

    def xattr(name: str, key: str, value: bytes) -> bool:
        headers = found[name].pax_headers if name in found else {}
        return headers.get(f"SCHILY.xattr.{key}", "").encode(errors="surrogateescape") == value

    def times() -> bool:
        return file is not None and file.pax_headers.get("mtime") == _MTIME

    return {
        "scan with metadata": helper.full and any(_MTIME.encode() in record for record in scan),
        "owner and mode": file is not None and (file.uid, file.gid, file.mode) == (4242, 4343, 0o4750),
        "nanosecond mtime": times(),
        "hard links": any(member.islnk() for member in found.values()),
        "symbolic links": link is not None and link.issym() and link.linkname == "/nowhere",
        "fifos": "fifo" in found and found["fifo"].isfifo(),
        "device nodes": "device" in found and found["device"].ischr(),
        "odd names": _ODD_NAME.decode(errors="surrogateescape").removeprefix("./") in found,
        "sparse files": sparse is not None and sparse.size == _SPARSE_SIZE and len(archive) < _SPARSE_SIZE // 100,
        "user xattrs": xattr("xattr", "user.drkit", b"kept"),
        "trusted xattrs": xattr("trusted", "trusted.drkit", b"kept"),
        "file capabilities": xattr("capability", "security.capability", _CAPABILITY),
        "access control lists": xattr("acl", "system.posix_acl_access", _ACL),
    }
