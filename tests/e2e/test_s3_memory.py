"""How much memory a backup to a bucket and a restore take: packs and chunks on their way are the most of it."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.lab import Lab
from tests.support.s3 import S3Server, bucket

MIB = 1 << 20


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_memory_stays_bounded_to_s3(lab: Lab, s3_server: S3Server, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    volume = lab.volume("large")
    subprocess.run(["sh", "-c", "head -c 500M /dev/urandom >random"], cwd=volume.files, check=True)
    with (volume.files / "text").open("w") as file:  # becomes half as large: twice the bytes in memory for one request
        for _ in range(200):
            file.write(os.urandom(MIB // 2).hex())
    with bucket(s3_server.client()) as name:
        lab.s3 = {"url": f"s3://{name}/lab", "endpoint": s3_server.https if tls else s3_server.http}
        if tls:
            lab.s3["ca_bundle"] = s3_server.ca
        lab.init(volume)
        peaks = {}
        restored = lab.forget_later(f"{volume.name}-restored")
        for arguments in (["backup"], ["restore", "latest", "--volume", volume.name, "--to-volume", restored]):
            result = lab.drkit(*arguments)
            assert result.code == 0, result
            peaks[arguments[0]] = result.peak_memory // MIB
        print(f"MiB: {peaks}")
        assert max(peaks.values()) < 250, f"MiB: {peaks}"
