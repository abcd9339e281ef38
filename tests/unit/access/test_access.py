"""Where the repository is, and what an S3 server must be told: from the policy, else from the environment."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import get_type_hints

import pytest

from drkit.access.access import Access, mirror_access, repository_access
from drkit.access.identities import IdentitySource
from drkit.errors import UsageError
from drkit.policy import Policy, parse_policy
from drkit.policy.s3 import S3Options
from drkit.repository.locks import LOCKED_PREFIXES
from drkit.storage import ObjectLock, S3Settings
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


def test_every_s3_option_of_a_policy_is_a_setting_of_the_storage_of_the_same_type() -> None:
    options, settings = get_type_hints(S3Options), get_type_hints(S3Settings)
    assert set(S3Options.model_fields) == {field.name for field in fields(S3Settings)} - {"as_of"}
    assert {name for name in S3Options.model_fields if options[name] != settings[name]} == {"lock"}


def test_every_s3_option_of_a_policy_reaches_the_storage(tmp_path: Path) -> None:
    said = """\
        endpoint: https://s3.example.com
        region: eu-north-1
        addressing: virtual
        profile: backup
        credentials_file: /s3.ini
        ca_bundle: /ca.pem
        storage_class: STANDARD_IA
        encryption: kms
        kms_key: alias/x
        upload_limit: 1KiB
        lock: {mode: compliance, period: 30d}
    """
    place = f"url: s3://backups/shop\n{textwrap.dedent(said)}"
    text = (
        f"version: 1\nname: shop\nprotect: {{volumes: [{{name: data}}]}}\n"
        f"repository:\n  recipients_file: /r\n  identity_file: /i\n{textwrap.indent(place, '  ')}"
        f"mirror:\n{textwrap.indent(place.replace('/shop', '/mirror'), '  ')}"
    )
    policy = parse_policy(text, tmp_path / "policy.yaml")
    expected = S3Settings(
        endpoint="https://s3.example.com",
        region="eu-north-1",
        addressing="virtual",
        profile="backup",
        credentials_file=Path("/s3.ini"),
        ca_bundle=Path("/ca.pem"),
        storage_class="STANDARD_IA",
        encryption="kms",
        kms_key="alias/x",
        upload_limit=1024,
        lock=ObjectLock("compliance", timedelta(days=30), LOCKED_PREFIXES),
    )
    defaults = S3Settings()
    untold = {f.name for f in fields(S3Settings) if getattr(expected, f.name) == getattr(defaults, f.name)}
    assert untold == {"as_of"}, "give the new option a value here"
    assert repository_access(policy, environ=BARE).s3 == expected
    assert mirror_access(policy, environ=BARE).s3 == expected


def test_a_policy_that_sets_no_s3_option_leaves_the_defaults(tmp_path: Path) -> None:
    text = POLICY.replace("  endpoint: https://policy.example.com\n  profile: nightly\n", "")
    assert repository_access(parse_policy(text, tmp_path / "policy.yaml"), environ={}).s3 == S3Settings()


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


def two_places(tmp_path: Path, repository: str, mirror: str) -> Policy:
    return parse_policy(
        "version: 1\nname: shop\nprotect: {volumes: [{name: data}]}\n"
        f"repository: {{recipients_file: /r, identity_file: /i, {repository}}}\nmirror: {{{mirror}}}\n",
        tmp_path / "policy.yaml",
    )


def test_of_two_places_with_one_url_the_environment_names_the_one_without_an_endpoint(tmp_path: Path) -> None:
    """The endpoint of the repository is then the one in the environment, with --repository and without."""
    url = "s3://backups/shop"
    policy = two_places(tmp_path, f"url: {url}", f"url: {url}, endpoint: https://mirror.example.com, profile: mirror")
    environ = {"DRKIT_ENDPOINT": "https://here.example.com"}
    assert repository_access(policy, url=url, environ=environ) == repository_access(policy, environ=environ)
    chosen = repository_access(policy, url=url, environ={"DRKIT_ENDPOINT": "https://mirror.example.com/"})
    assert chosen.s3.profile == "mirror"


def test_a_directory_that_is_both_has_no_endpoint_to_choose(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    policy = two_places(tmp_path, f"url: {tmp_path}", f"url: {tmp_path / 'link'}")
    assert repository_access(policy, url=str(tmp_path), environ={}).url == str(tmp_path)


def test_an_empty_url_names_no_repository(tmp_path: Path) -> None:
    """A script gives --repository "$WHERE" with nothing in it. The policy still comes before the environment."""
    policy = parse_policy(POLICY, tmp_path / "policy.yaml")
    environ = {"DRKIT_REPOSITORY": "/elsewhere"}
    assert repository_access(policy, url="", environ=environ) == repository_access(policy, environ=environ)
    assert repository_access(policy, url="", environ=environ).url == policy.repository.url
