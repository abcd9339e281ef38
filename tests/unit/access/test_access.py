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

from drkit.access.access import Access, mirror_access, other_access, overruled, repository_access
from drkit.access.identities import IdentitySource
from drkit.errors import UsageError
from drkit.policy import Policy, parse_policy
from drkit.policy.s3 import S3Options
from drkit.repository.locks import LOCKED_PREFIXES
from drkit.settings import VARIABLES
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


def test_the_environment_comes_first_and_the_policy_fills_what_it_does_not_say(tmp_path: Path) -> None:
    access = repository_access(parse_policy(POLICY, tmp_path / "policy.yaml"), environ=BARE)
    assert access.s3.endpoint == "https://bare.example.com"
    assert access.s3.profile == "nightly"
    assert (access.s3.region, access.s3.ca_bundle) == ("eu-central-1", Path("/root/ca.pem"))


def test_of_another_place_than_the_repository_the_policy_is_asked_first(tmp_path: Path) -> None:
    """The mirror may be at another provider: the endpoint of the repository must not send the copies there."""
    mirror = "url: s3://copies/shop, endpoint: https://mirror.example.com"
    policy = two_places(tmp_path, "url: s3://backups/shop", mirror)
    for access in (
        mirror_access(policy, environ=BARE),
        mirror_access(policy, "s3://copies/shop", environ=BARE),
        other_access(policy, "s3://copies/shop", environ=BARE),
    ):
        assert access.s3.endpoint == "https://mirror.example.com"
        assert access.s3.region == "eu-central-1"


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
    assert repository_access(policy, environ={}).s3 == expected
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
    """A script gives --repository "$WHERE" with nothing in it. The environment still comes before the policy."""
    policy = parse_policy(POLICY, tmp_path / "policy.yaml")
    environ = {"DRKIT_REPOSITORY": "/elsewhere"}
    assert repository_access(policy, url="", environ=environ) == repository_access(policy, environ=environ)
    assert repository_access(policy, url="", environ=environ).url == "/elsewhere"


# --- option over environment over policy ------------------------------------------------------------------------------

POLICY_OF_ALL = """\
version: 1
name: shop
repository:
  url: s3://policy/shop
  endpoint: https://policy.example.com
  region: us-east-1
  ca_bundle: /policy/ca.pem
  recipients_file: /r
  identity_file: /policy/identity
  passphrase_file: /policy/passphrase
protect: {volumes: [{name: data}]}
"""
READ = {
    "DRKIT_REPOSITORY": ("s3://environment/shop", lambda access: access.url),
    "DRKIT_ENDPOINT": ("https://environment.example.com", lambda access: access.s3.endpoint),
    "DRKIT_REGION": ("eu-central-1", lambda access: access.s3.region),
    "DRKIT_CA_BUNDLE": ("/environment/ca.pem", lambda access: str(access.s3.ca_bundle)),
    "DRKIT_IDENTITY_FILE": ("/environment/identity", lambda access: str(access.identity.file)),
    "DRKIT_IDENTITY_FD": ("3", lambda access: str(access.identity.descriptor)),
    "DRKIT_PASSPHRASE_FILE": ("/environment/passphrase", lambda access: str(access.identity.passphrase_file)),
}
"""By variable: a value that differs from the policy, and what reads it."""
ELSEWHERE = {"DRKIT_POLICY", "DRKIT_STATE_DIR", "DRKIT_CACHE_DIR", "DRKIT_EXCHANGE_DIR", "DRKIT_EXCHANGE_VOLUME"}
"""Those that no policy can say; --policy over DRKIT_POLICY is tested with the context."""


def test_every_variable_is_in_a_table() -> None:
    assert set(READ) | ELSEWHERE == VARIABLES


@pytest.mark.parametrize("variable", READ)
def test_the_environment_wins_over_the_policy_and_that_is_noted(variable: str, tmp_path: Path) -> None:
    policy = parse_policy(POLICY_OF_ALL, tmp_path / "policy.yaml")
    value, read = READ[variable]
    assert read(repository_access(policy, environ={variable: value})) == value
    [note] = overruled(policy, None, {variable: value})
    assert variable in note
    assert str(policy.path) in note
    for same in ({variable: ""}, {}):
        assert repository_access(policy, environ=same) == repository_access(policy, environ={})
        assert list(overruled(policy, None, same)) == []


def test_what_is_the_same_in_both_is_not_noted(tmp_path: Path) -> None:
    policy = parse_policy(POLICY_OF_ALL, tmp_path / "policy.yaml")
    same = {
        "DRKIT_REPOSITORY": "s3://policy/shop/",
        "DRKIT_ENDPOINT": "https://policy.example.com/",
        "DRKIT_REGION": "us-east-1",
        "DRKIT_CA_BUNDLE": "/policy/ca.pem",
        "DRKIT_IDENTITY_FILE": "/policy/identity",
        "DRKIT_PASSPHRASE_FILE": "/policy/passphrase",
    }
    assert list(overruled(policy, "s3://policy/shop", same)) == []


def test_an_option_wins_over_the_environment_and_the_policy(tmp_path: Path) -> None:
    policy = parse_policy(POLICY_OF_ALL, tmp_path / "policy.yaml")
    environ = {"DRKIT_REPOSITORY": "/environment"}
    assert repository_access(policy, url="/option", environ=environ).url == "/option"
    of_environment, of_policy = overruled(policy, "/option", environ)
    assert of_environment == "--repository /option is used, not DRKIT_REPOSITORY (/environment)"
    assert of_policy == f"--repository /option is used, not the repository of {policy.path} (s3://policy/shop)"
    assert list(overruled(None, "/option", environ)) == [of_environment]


@pytest.mark.parametrize("given", ["identity_command: [pass, show, x]", "meta_key_file: /m"])
def test_an_identity_wins_over_whatever_opens_the_repository_in_the_policy(given: str, tmp_path: Path) -> None:
    text = f"version: 1\nname: a\nrepository:\n  url: /r\n  recipients_file: /r.txt\n  {given}\n"
    text += "protect: {volumes: [{name: data}]}\n"
    policy = parse_policy(text, tmp_path / "policy.yaml")
    environ = {"DRKIT_IDENTITY_FILE": "/i"}
    assert repository_access(policy, environ=environ).identity == IdentitySource(Path("/i"))
    [note] = overruled(policy, None, environ)
    assert given.partition(":")[0] in note
    both = {**environ, "DRKIT_IDENTITY_FD": "3"}
    assert [note.partition(",")[0] for note in overruled(policy, None, both)] == [
        "DRKIT_IDENTITY_FD is used",
        "the identity of DRKIT_IDENTITY_FD is used",
    ]


@pytest.mark.parametrize("place", ["${BACKUP_DIR}/drkit", "~/drkit", " /var/backups", "%h/x", "sftp:x:/y", "s3://$B/x"])
def test_a_place_in_the_environment_is_not_taken_literally(place: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        repository_access(None, environ={"DRKIT_REPOSITORY": place})
    with pytest.raises(UsageError):
        repository_access(parse_policy(POLICY, tmp_path / "p.yaml"), environ={"DRKIT_REPOSITORY": place})


@pytest.mark.parametrize("variable", ["DRKIT_ENDPOINT", "DRKIT_REGION", "DRKIT_CA_BUNDLE"])
def test_what_is_said_of_a_server_means_nothing_for_a_directory(tmp_path: Path, variable: str) -> None:
    environ = {variable: "/x"}
    assert list(overruled(None, "/srv/drkit", environ)) == [
        f"{variable} (/x) is not used: the repository /srv/drkit is a directory"
    ]
    assert list(overruled(None, "s3://backups/shop", environ)) == []
