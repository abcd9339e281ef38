"""Where the repository is, and what an S3 server must be told: from the policy, else from the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drkit.access.access import Access, repository_access
from drkit.access.identities import IdentitySource
from drkit.errors import UsageError
from drkit.policy import parse_policy
from drkit.storage import S3Settings
from tests.conftest import PROJECT

POLICY = """\
version: 1
name: shop
repository:
  url: s3://backups/shop
  endpoint: https://policy.example.com
  profile: nightly
  recipients_file: /r
  identity_file: /i
protect: {volumes: [{name: data}]}
"""
BARE = {
    "DRKIT_REPOSITORY": "s3://backups/shop",
    "DRKIT_IDENTITY_FILE": "/root/identity.txt",
    "DRKIT_ENDPOINT": "https://bare.example.com",
    "DRKIT_REGION": "eu-central-1",
    "DRKIT_CA_BUNDLE": "/root/ca.pem",
}


def test_a_bare_host_names_all_in_its_environment() -> None:
    assert repository_access(None, environ=BARE) == Access(
        url="s3://backups/shop",
        identity=IdentitySource(Path("/root/identity.txt")),
        s3=S3Settings(endpoint="https://bare.example.com", region="eu-central-1", ca_bundle=Path("/root/ca.pem")),
    )


def test_the_policy_comes_first_and_the_environment_fills_what_it_does_not_say(tmp_path: Path) -> None:
    access = repository_access(parse_policy(POLICY, tmp_path / "policy.yaml"), environ=BARE)
    assert access.s3.endpoint == "https://policy.example.com"
    assert access.s3.profile == "nightly"
    assert (access.s3.region, access.s3.ca_bundle) == ("eu-central-1", Path("/root/ca.pem"))


def test_an_empty_environment_names_nothing() -> None:
    with pytest.raises(UsageError, match="no repository is named"):
        repository_access(None, environ={})
    access = repository_access(None, url="/srv/backups", environ={"DRKIT_ENDPOINT": "", "DRKIT_CA_BUNDLE": ""})
    assert access.s3 == S3Settings()


def test_a_repository_in_a_directory_loads_nothing_of_s3(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from drkit.access.access import Access\n"
        "from drkit.access.opening import open_access\n"
        "storage = open_access(Access(sys.argv[1]), create=True)\n"
        "storage.put('config', b'x')\n"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in ('boto3', 'botocore', 'tenacity')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "repository"],
        env={"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
