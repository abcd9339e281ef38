"""The recovery kit's own commands on S3, and one bucket name at two providers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import boto3
import pytest

from tests.conftest import CliResult, DrkitCli
from tests.support.s3 import S3Server, bucket, moto_server

POLICY = """\
version: 1
name: kit
host: kit-host
repository:
  url: s3://{bucket}/kit
  endpoint: {server.https}
  ca_bundle: {server.ca}
  credentials_file: {directory}/credentials
  recipients_file: {directory}/recipients.txt
  identity_file: {directory}/identity.txt
protect: {{volumes: [{{name: data}}]}}
"""


class Place:
    """A policy whose S3 settings are all needed: nothing of them is in the environment."""

    def __init__(self, directory: Path, server: S3Server, bucket: str, cli: DrkitCli) -> None:
        self.directory = directory
        self.bucket = bucket
        self._cli = cli
        self.policy = directory / "policy.yaml"
        self.policy.write_text(POLICY.format(bucket=bucket, server=server, directory=directory))
        secrets = directory / "credentials"
        secrets.write_text(
            f"[default]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
        )
        secrets.chmod(0o600)
        self.passphrase = directory / "passphrase"
        self.passphrase.write_text("five words that nobody guesses\n")
        self.passphrase.chmod(0o600)

    def run(self, *arguments: str | Path, code: int = 0, env: Mapping[str, str] = MappingProxyType({})) -> CliResult:
        environment = {"DRKIT_STATE_DIR": str(self.directory / "state"), **env}
        done = self._cli(*arguments, "--policy", self.policy, env=environment)
        assert done.code == code, done
        return done


@pytest.fixture
def place(tmp_path: Path, s3_server: S3Server, drkit_cli: DrkitCli) -> Iterator[Place]:
    with bucket(s3_server.client()) as name:
        yield Place(tmp_path, s3_server, name, drkit_cli)


def test_prove_and_unlock_reach_the_bucket_as_the_policy_says(place: Place) -> None:
    place.run("init", "--passphrase-file", place.passphrase)
    brought = place.directory / "brought.txt"
    brought.write_bytes((place.directory / "identity.txt").read_bytes())
    brought.chmod(0o600)
    proven = json.loads(place.run("key", "prove", "--identity", brought, "--json").stdout)["proven"]
    assert [each["elsewhere"] for each in proven] == [True]
    unlocked = place.directory / "unlocked.txt"
    place.run("key", "unlock", "-o", unlocked, "--passphrase-file", place.passphrase)
    secret = [line for line in unlocked.read_text().splitlines() if line.startswith("AGE-SECRET-KEY-1")]
    assert secret[0] in brought.read_text()
    other = place.directory / "other"
    other.write_text("another five words that nobody guesses\n")
    other.chmod(0o600)
    place.run("key", "passphrase", "--passphrase-file", other)
    place.run("key", "unlock", "-o", place.directory / "again.txt", "--passphrase-file", other)
    assert place.bucket in place.run("key", "kit").stdout
    assert place.run("key", "list").stderr == ""


def test_the_same_bucket_name_at_another_provider_is_a_mirror(place: Place, s3_server: S3Server) -> None:
    with moto_server() as endpoint:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=s3_server.access_key,
            aws_secret_access_key=s3_server.secret_key,
        )
        client.create_bucket(Bucket=place.bucket)
        url = f"s3://{place.bucket}/kit"
        credentials = place.directory / "credentials"
        mirror = f"mirror: {{url: '{url}', endpoint: '{endpoint}', credentials_file: '{credentials}'}}\n"
        place.policy.write_text(place.policy.read_text() + mirror)
        place.run("init")
        said = place.run("init", "--mirror-of", url, code=2)  # it could be either
        assert "DRKIT_ENDPOINT" in said.stderr
        made = place.run("init", "--mirror-of", url, env={"DRKIT_ENDPOINT": s3_server.https})
        assert "created mirror" in made.stdout
        place.run("copy")
        place.run("check")
        states = [
            json.loads(path.read_text())["place"] for path in (place.directory / "state" / "repositories").iterdir()
        ]
        assert [each.rpartition(":")[2].partition("/")[0] for each in states] == [endpoint.rpartition(":")[2]]
