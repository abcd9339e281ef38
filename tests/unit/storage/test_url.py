"""Which storage a URL opens, and which URLs name one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.errors import RepositoryNotFound, UsageError
from drkit.storage import S3Settings, local_path, open_storage, place
from drkit.storage.local.directory import LocalStorage


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/var/backups/drkit", "/var/backups/drkit"),
        ("/with space/and%20percent", "/with space/and%20percent"),
        ("file:///var/backups/drkit", "/var/backups/drkit"),
        ("file://localhost/var/backups", "/var/backups"),
        ("file:///with%20space", "/with space"),
    ],
)
def test_paths_and_file_urls(url: str, path: str) -> None:
    assert local_path(url) == Path(path)


def test_a_relative_path_counts_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage("backups/here", create=True)
    monkeypatch.chdir("/")
    storage.put("config", b"x")
    assert storage.url == str(tmp_path / "backups/here")
    assert (tmp_path / "backups/here/config").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "does not name an S3 bucket"),
        ("s3://Bucket/prefix", "does not name an S3 bucket"),
        ("s3://a/prefix", "does not name an S3 bucket"),
        ("s3://key:secret@bucket/prefix", "does not name an S3 bucket"),
        ("s3://bucket//prefix", "prefix"),
        ("s3://bucket/../other", "prefix"),
        ("s3://bucket/white space", "prefix"),
        ("sftp://host/path", "unknown repository scheme 'sftp'"),
        ("sftp:user@host:/path", "unknown repository scheme 'sftp'"),
        ("http://[half", "not a repository URL"),
        ("file://host/path", "absolute path"),
        ("file://", "absolute path"),
        ("file:///a?b", "nothing else"),
        ("file:///a%00b", "NUL"),
        ("", "not a repository URL"),
        ("a\0b", "not a repository URL"),
    ],
)
def test_other_urls_are_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_storage(url, create=True)
    assert caught.value.hint


def test_a_missing_directory_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFound, match="no such file or directory") as caught:
        open_storage(str(tmp_path / "missing"))
    assert caught.value.hint is not None
    assert "drkit init" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("create", [False, True])
def test_a_file_is_no_repository(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_text("precious")
    for url in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises((RepositoryNotFound, UsageError), match="not a directory"):
            open_storage(str(url), create=create)
    assert (tmp_path / "file").read_text() == "precious"


def test_create_takes_an_existing_directory_as_it_is(tmp_path: Path) -> None:
    directory = tmp_path / "repository"
    directory.mkdir(mode=0o750)
    (directory / "config").write_bytes(b"x")
    storage = open_storage(str(directory), create=True)
    assert storage.get("config") == b"x"
    assert directory.stat().st_mode & 0o7777 == 0o750


def test_a_symbolic_link_to_the_repository(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    storage = open_storage(str(tmp_path / "link"))
    assert isinstance(storage, LocalStorage)
    storage.put("packs/aa/one", b"x")
    assert [info.key for info in storage.list("")] == ["packs/aa/one"]
    assert (tmp_path / "real/packs/aa/one").read_bytes() == b"x"


# --- places -----------------------------------------------------------------------------------------------------------


def at(endpoint: str | None, url: str = "s3://bucket/prefix", region: str | None = None) -> str:
    return place(url, S3Settings(endpoint=endpoint, region=region), {})


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (None, "aws:/bucket/prefix"),
        ("https://s3.eu-central-1.amazonaws.com", "aws:/bucket/prefix"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "aws-cn:/bucket/prefix"),
        ("https://minio.example.com", "https://minio.example.com:443/bucket/prefix"),
        ("http://minio.example.com:9000/gateway/", "http://minio.example.com:9000/gateway/bucket/prefix"),
        ("http://[2001:DB8::1]:9000", "http://[2001:db8::1]:9000/bucket/prefix"),
    ],
)
def test_a_place_in_s3(endpoint: str | None, expected: str) -> None:
    assert at(endpoint) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://minio.example.com", "https://minio.example.com/"),
        ("https://minio.example.com", "https://minio.example.com:443"),
        ("http://minio.example.com", "http://minio.example.com:80/"),
        ("https://minio.example.com", "https://MinIO.Example.COM."),
        ("HTTPS://minio.example.com", "https://minio.example.com"),
        ("http://localhost:9000", "http://127.0.0.1:9000"),
        ("http://localhost:9000", "http://[::1]:9000"),
    ],
)
def test_endpoints_of_one_server(one: str, other: str) -> None:
    assert at(one) == at(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://minio.example.com", None),
        ("https://minio.example.com", "https://minio.example.org"),
        ("https://minio.example.com", "https://minio.example.com:9000"),
        ("https://minio.example.com/one", "https://minio.example.com/two"),
    ],
)
def test_one_bucket_name_at_two_providers_is_two_places(one: str, other: str | None) -> None:
    assert at(one) != at(other)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://s3.amazonaws.com",
        "http://s3.amazonaws.com:80/",
        "https://s3.eu-central-1.amazonaws.com",
        "https://s3-eu-west-1.amazonaws.com",
        "https://s3.dualstack.us-east-1.amazonaws.com",
        "https://s3-fips.us-west-2.amazonaws.com",
        "https://s3-accelerate.amazonaws.com",
        "https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com",
    ],
)
def test_aws_by_any_name_is_one_place(endpoint: str) -> None:
    assert at(endpoint) == at(None) == at(None, region="eu-central-1")


def test_a_partition_of_aws_has_bucket_names_of_its_own() -> None:
    china, government = "https://s3.cn-north-1.amazonaws.com.cn", "https://s3.us-gov-west-1.amazonaws.com"
    assert at(china) == at(None, region="cn-northwest-1")
    assert at(government) == at(None, region="us-gov-east-1")
    assert len({at(china), at(government), at(None)}) == 3


@pytest.mark.parametrize(
    "host", ["ec2-1-2-3-4.compute.amazonaws.com", "s3-lb-1.eu-west-1.elb.amazonaws.com", "s3.amazonaws.com.example.org"]
)
def test_a_server_that_runs_in_aws_is_not_aws(host: str) -> None:
    assert at(f"https://{host}") == f"https://{host}:443/bucket/prefix"


def test_the_environment_of_aws_names_an_endpoint_too() -> None:
    environ = {"AWS_ENDPOINT_URL": "https://minio.example.com"}
    assert place("s3://bucket/prefix", None, environ) == at("https://minio.example.com")
    assert place("s3://bucket", S3Settings(endpoint="https://other.example.com"), environ) == at(
        "https://other.example.com", "s3://bucket"
    )


def test_buckets_and_prefixes() -> None:
    assert at(None, "s3://bucket/prefix/") == at(None, "s3://bucket/prefix")
    assert at(None, "s3://bucket/") == at(None, "s3://bucket") == "aws:/bucket"
    assert len({at(None, f"s3://{each}") for each in ("bucket", "bucket/a", "bucket/a/b", "bucket-a", "other/a")}) == 5


@pytest.mark.parametrize(
    "endpoint", ["minio:9000", "not a url", "https://", "http://[half", "ftp://x", "http://x:port"]
)
def test_what_is_not_an_endpoint_is_a_usage_error(endpoint: str) -> None:
    with pytest.raises(UsageError, match="endpoint is not a URL") as caught:
        at(endpoint)
    assert caught.value.hint


def test_a_place_shows_no_credentials() -> None:
    assert "secret" not in at("https://key:secret@minio.example.com")


def test_a_directory_is_its_real_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path.resolve() / "real")
    for url in ("real", "./real/", "link", f"{tmp_path}/link/../real", f"file://{tmp_path}/real/"):
        assert place(url) == expected, url
    assert place(f"file://localhost{tmp_path}/link") == expected
    assert place("missing/below") == str(tmp_path.resolve() / "missing/below")
    with pytest.raises(UsageError):
        place("sftp://host/path")


def test_a_directory_named_like_a_bucket_is_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("bucket/prefix") != at(None)
