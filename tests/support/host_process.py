"""The host's own find and tar, in place of a helper's."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from drkit.engine.helper.process import HelperExit
from drkit.engine.helper.reading import READ_LIST, SAMPLE, SCAN_FORMAT
from tests.support.host_tar import mounts_record


class HostProcess:
    """Does what a helper does. `said`, `code` and `found` are its stderr and the statuses of tar and find, whatever
    really happened; where `said` is None, they are what really happened. `kind` is the type of the file system that it
    tells."""

    def __init__(
        self,
        root: Path,
        said: bytes | None = b"",
        code: int = 0,
        found: int = 0,
        *,
        kind: str | None = None,
        sampled: bool = False,
        held: bool = False,
        programs: str = "/usr/sbin:/usr/bin:/sbin:/bin",
    ) -> None:
        self._said, self._code = said, code
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed in close()
        hold = "read -r _; " if held else ""
        end = "$?" if said is None else str(found)
        scan = f"printf '%s\\0\\0' \"$1\"; find . -printf '{SCAN_FORMAT}'; printf 'end %s\\0\\0' {end}"
        mounts = mounts_record(root, kind).decode().removesuffix("\0\0")
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"{hold}{scan}\n{SAMPLE if sampled else ''}{READ_LIST}", "sh", mounts],
            cwd=root,
            env={"LC_ALL": "C", "PATH": programs},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )

    def readinto(self, buffer: memoryview) -> int:
        assert self._process.stdout is not None
        return os.readv(self._process.stdout.fileno(), [buffer])

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def finish(self) -> HelperExit:
        code = self._process.wait()
        if self._said is not None:
            return HelperExit(self._code, self._said, stderr_truncated=False, oom_killed=False)
        self._stderr.seek(0)
        return HelperExit(code, self._stderr.read(), stderr_truncated=False, oom_killed=False)

    def abort(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._stderr.close()

    def __enter__(self) -> HostProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
