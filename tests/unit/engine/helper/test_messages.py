"""What tar and find really print: the lines come from the real tools wherever a test can provoke them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from drkit.engine.helper.messages import TarReport, classify_tar_stderr, unescape
from drkit.engine.helper.reading import TAR_CREATE
from drkit.engine.helper.writing import TAR_EXTRACT

ODD = b"odd: \\ 'q' \"d\"\n\t\r\xff\x01 end"


def tar(directory: Path, command: str, stdin: bytes) -> tuple[bytes, int, TarReport]:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {command}"], cwd=directory, input=stdin, env={"LC_ALL": "C"}, capture_output=True
    )
    return done.stdout, done.returncode, classify_tar_stderr(done.stderr)


def test_silence() -> None:
    report = classify_tar_stderr(b"")
    assert report == TarReport((), (), (), (), ())
    assert report.explains(0)
    assert not report.explains(1) and not report.explains(2) and not report.explains(137)


def test_vanished_files_and_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "is-now-a-file").touch()
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        monkeypatch.chdir(tmp_path)
        listener.bind("socket")
    names = [b".", b"./file", b"./gone", b"./" + ODD, b"./is-now-a-file/x", b"./socket"]
    _, code, report = tar(tmp_path, TAR_CREATE, b"".join(name + b"\0" for name in names))
    assert code == 2
    assert report.vanished == (b"gone", ODD, b"is-now-a-file/x")
    assert report.sockets == (b"socket",)
    assert report.unknown == () and report.torn == ()
    assert report.explains(2)


def test_find_names_what_vanished_as_tar_does(tmp_path: Path) -> None:
    arguments = [b"find", b"./gone", b"./" + ODD]
    done = subprocess.run(arguments, cwd=tmp_path, env={"LC_ALL": "C", "PATH": os.defpath}, capture_output=True)
    report = classify_tar_stderr(done.stderr)
    assert report.vanished == (b"gone", ODD)
    assert report.unknown == ()


@pytest.mark.parametrize("change", ["grow", "shrink", "touch", "remove", "replace"])
def test_files_that_change_while_they_are_read(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file: a"
    path.write_bytes(b"x" * 5_000_000)
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {TAR_CREATE}"],
        cwd=tmp_path,
        env={"LC_ALL": "C"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    with process:
        process.stdin.write(b"./file: a\0")
        process.stdin.close()
        process.stdout.read(600_000)  # tar is inside the file now, and its pipe is full
        match change:
            case "grow":
                with path.open("ab") as file:
                    file.write(b"x")
            case "shrink":
                os.truncate(path, 100)
            case "touch":
                os.utime(path)
            case "remove":
                path.unlink()
            case "replace":
                path.rename(tmp_path / "other")
                path.touch()
        process.stdout.read()
        report = classify_tar_stderr(process.stderr.read())
    assert process.returncode == 1
    assert report.torn == (b"file: a",)
    assert report.unknown == () and report.vanished == ()
    assert report.explains(1)


ODD_TIMES = (("old", -5e9), ("future", 4e9), ("a\nnew line", -5e9))


def test_extracting_says_nothing_of_odd_times(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name, stamp in ODD_TIMES:
        (source / name).touch()
        os.utime(source / name, (stamp, stamp))
    archive, code, report = tar(source, TAR_CREATE, b"".join(b"./%b\0" % name.encode() for name, _ in ODD_TIMES))
    assert (code, report) == (0, TarReport((), (), (), (), ()))
    _, code, report = tar(target, TAR_EXTRACT, archive)
    assert (code, report) == (0, TarReport((), (), (), (), ()))
    for name, _ in ODD_TIMES:
        assert (target / name).stat().st_mtime_ns == (source / name).stat().st_mtime_ns


def test_what_a_stock_gnu_tar_says_of_odd_times_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (-5e9, -5e9))
    archive, _, _ = tar(tmp_path, TAR_CREATE, b"./old\0")
    _, code, report = tar(tmp_path, "tar -x -f - -p --numeric-owner", archive)
    assert code == 0 and len(report.harmless) == 1
    assert report.explains(0)


def test_an_archive_that_ends_early_is_unknown_and_so_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    archive, _, _ = tar(tmp_path, TAR_CREATE, b"./file\0")
    _, code, report = tar(tmp_path, TAR_EXTRACT, archive[:50_000])
    assert code == 2
    assert any("Unexpected EOF" in line for line in report.unknown)
    assert not report.explains(2)


def test_an_unreadable_file_is_a_failure(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").touch(mode=0)
    (tmp_path / "file").chmod(0)
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {TAR_CREATE}"],
        cwd=tmp_path,
        input=b"./file\0",
        env={"LC_ALL": "C"},
        capture_output=True,
        preexec_fn=lambda: os.setgroups([]) or os.setgid(65534) or os.setuid(65534),
    )
    report = classify_tar_stderr(done.stderr)
    assert done.returncode == 2
    assert report.unknown == ("tar: ./file: Cannot open: Permission denied",)
    assert not report.explains(2)


def test_busybox_says_it_in_other_words(tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox, "this test needs busybox"
    (tmp_path / "file").touch()
    done = subprocess.run(
        [busybox, "tar", "-c", "-f", "-", "--no-recursion", "./file", "./gone", "./a: b"],
        cwd=tmp_path,
        capture_output=True,
    )
    report = classify_tar_stderr(done.stderr)
    assert done.returncode == 1
    assert report.vanished == (b"gone", b"a: b")
    assert report.unknown == ()
    assert report.explains(1)


# Lines that the tools say only in conditions that a test cannot make: from the sources of GNU tar 1.34 and 1.35.
@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        (b"tar: ./a: File removed before we read it", "vanished", b"a"),
        (b"tar: ./a: Cannot open: No such file or directory", "vanished", b"a"),
        (b"tar: ./a: Cannot readlink: Stale file handle", "vanished", b"a"),
        (b"tar: ./a: Warning: Cannot llistxattrat: No such file or directory", "vanished", b"a"),
        (b"tar: .: file changed as we read it", "torn", b""),
        (b"tar: ./a: File shrank by 1 byte; padding with zeros", "torn", b"a"),
        (b"tar: short read on ./a, filling with zeros", "torn", b"a"),
        (b"tar: ./a: Warning: Cannot llistxattrat: Operation not supported", "harmless", None),
        (b"tar: Exiting with failure status due to previous errors", "harmless", None),
        (b"tar: ./a: Read error at byte 0, while reading 512 bytes: Input/output error", "unknown", None),
        (b"tar: ./a: Warning: Cannot llistxattrat: Permission denied", "unknown", None),
        (b"tar: ./a: Unknown file type; file ignored", "unknown", None),
        (b"tar: Error is not recoverable: exiting now", "unknown", None),
        (b"tar: -: Cannot write: Broken pipe", "unknown", None),
        (b"find: './a': Permission denied", "unknown", None),
        (b"drkit: 7: tar: not found", "unknown", None),
        (b"", "unknown", None),
        (b"\xff\x00nonsense", "unknown", None),
    ],
)
def test_each_line_has_its_place(line: bytes, field: str, value: bytes | None) -> None:
    report = classify_tar_stderr(line + b"\n")
    found = getattr(report, field)
    assert found == ((value,) if value is not None else found) and len(found) == 1
    assert sum(len(getattr(report, name)) for name in ("vanished", "torn", "sockets", "harmless", "unknown")) == 1


def test_an_exit_status_must_be_explained() -> None:
    failed = b"tar: Exiting with failure status due to previous errors\n"
    assert not classify_tar_stderr(failed).explains(2)
    assert classify_tar_stderr(b"tar: ./a: Cannot stat: No such file or directory\n" + failed).explains(2)
    assert not classify_tar_stderr(b"tar: ./a: file changed as we read it\n").explains(2)
    assert not classify_tar_stderr(b"tar: ./a: Cannot stat: No such file or directory\nwhat?\n").explains(2)
    for code in (3, 126, 127, 137, 139, 141):
        assert not classify_tar_stderr(b"tar: ./a: file changed as we read it\n").explains(code)


def test_what_was_cut_off_is_unknown() -> None:
    assert not classify_tar_stderr(b"tar: ./a: socket ignored\n", truncated=True).explains(0)


def test_unescape() -> None:
    assert unescape(rb"a\n\t\\\:\'\377\001\"b") == b"a\n\t\\:'\xff\x01\"b"
