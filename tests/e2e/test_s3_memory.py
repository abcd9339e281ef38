"""How much memory a backup to a bucket takes: packs on their way are the most of it."""

from __future__ import annotations

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
    with bucket(s3_server.client()) as name:
        lab.s3 = {"url": f"s3://{name}/lab", "endpoint": s3_server.https if tls else s3_server.http}
        if tls:
            lab.s3["ca_bundle"] = s3_server.ca
        lab.init(volume)
        result = lab.drkit("backup")
        assert result.code == 0, result
        print(f"peak of a backup: {result.peak_memory // MIB} MiB")
        assert result.peak_memory // MIB < 250
