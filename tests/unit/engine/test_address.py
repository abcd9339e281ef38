"""Which engine is meant: found as the Docker client finds it, or an error, and never another engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from drkit.engine.address import USUAL, Address, Tls, find_engine
from drkit.errors import DrkitError, UsageError

HOST = {"DOCKER_HOST": "unix:///here.sock"}


class Home:
    """The files of a Docker client."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / ".docker"
        self.directory.mkdir()
        self.environ = {"HOME": str(directory)}
        self.config = self.directory / "config.json"

    def meta(self, name: str) -> Path:
        path = self.directory / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def context(self, name: str, host: str = "unix:///remote.sock", **endpoint: object) -> Path:
        document = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, **endpoint}}}
        self.meta(name).write_text(json.dumps(document))
        tls = self.directory / "contexts" / "tls" / hashlib.sha256(name.encode()).hexdigest() / "docker"
        tls.mkdir(parents=True)
        return tls

    def find(self, **environ: str) -> Address:
        return find_engine(None, {**self.environ, **environ})

    def fails(self, named: str, environ: Mapping[str, str]) -> str:
        with pytest.raises(DrkitError) as caught:
            self.find(**environ)
        assert caught.value.exit_code == (2 if isinstance(caught.value, UsageError) else 14)
        assert named in caught.value.message
        assert caught.value.hint
        return caught.value.message


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_without_anything_it_is_the_one_at_the_usual_socket(home: Home) -> None:
    home.directory.rmdir()
    assert home.find() == Address(USUAL)
    assert home.find(DOCKER_HOST="", DOCKER_CONTEXT="", DOCKER_CONFIG="", DOCKER_TLS_VERIFY="") == Address(USUAL)


@pytest.mark.parametrize("text", ["", "\n", "{}", '{"currentContext": ""}', '{"currentContext": "default"}'])
def test_a_configuration_that_names_no_context(home: Home, text: str) -> None:
    home.config.write_text(text)
    assert home.find().url == USUAL
    assert home.find(DOCKER_CONTEXT="default").url == USUAL


def test_the_order_is_that_of_the_client(home: Home) -> None:
    home.context("current", "unix:///current.sock")
    home.context("asked", "tcp://127.0.0.1:2375")
    home.config.write_text('{"currentContext": "current", "HttpHeaders": {"X-Key": "k"}}')
    assert home.find() == Address("unix:///current.sock", headers={"X-Key": "k"})
    assert home.find(DOCKER_CONTEXT="asked") == Address("tcp://127.0.0.1:2375", headers={"X-Key": "k"})
    both = home.find(DOCKER_CONTEXT="asked", **HOST)
    assert both.url == HOST["DOCKER_HOST"]
    assert both.notes == ("DOCKER_HOST is used, not the context 'asked' of DOCKER_CONTEXT",)
    assert find_engine("unix:///given.sock", {**home.environ, **HOST}).url == "unix:///given.sock"


def test_a_context_is_found_without_a_config_json_and_in_docker_config(home: Home, tmp_path: Path) -> None:
    home.context("asked")
    assert home.find(DOCKER_CONTEXT="asked").url == "unix:///remote.sock"
    elsewhere = home.directory.rename(tmp_path / "elsewhere")
    assert home.find(DOCKER_CONTEXT="asked", DOCKER_CONFIG=str(elsewhere)).url == "unix:///remote.sock"
    home.fails("'asked', which does not exist", {"DOCKER_CONTEXT": "asked"})


def test_a_context_that_does_not_exist(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.fails("DOCKER_CONTEXT names the context 'lost'", {"DOCKER_CONTEXT": "lost"})
    home.config.write_text('{"currentContext": "lost"}')
    home.fails(f"{home.config} names the context 'lost'", {})
    home.fails("'../../etc'", {"DOCKER_CONTEXT": "../../etc"})
    home.fails("' default'", {"DOCKER_CONTEXT": " default"})
    assert home.find(**HOST).url == HOST["DOCKER_HOST"]


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\x00", "{}{}", '{"currentContext": 5}', '{"HttpHeaders": [1]}'])
def test_a_broken_configuration(home: Home, text: str) -> None:
    home.config.write_text(text)
    home.fails(str(home.config), {})


def test_a_configuration_that_cannot_be_read(home: Home) -> None:
    home.config.mkdir()
    home.fails("is a directory", {})
    home.config.rmdir()
    home.config.write_bytes(b"\xff\xfe{}")
    home.fails("not valid JSON", {})
    # DOCKER_HOST says which engine is meant. Only the headers are in doubt then, and that is told.
    address = home.find(**HOST)
    assert address.url == HOST["DOCKER_HOST"]
    assert str(home.config) in address.doubts[0]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"Name": "broken"}',
        '{"Name": "broken", "Endpoints": []}',
        '{"Name": "broken", "Endpoints": {}}',
        '{"Name": "broken", "Endpoints": {"docker": []}}',
        '{"Name": "broken", "Endpoints": {"docker": {}}}',
        '{"Name": "broken", "Endpoints": {"docker": {"Host": ""}}}',
        '{"Name": "another", "Endpoints": {"docker": {"Host": "unix:///x"}}}',
        '{"Name": "broken", "Endpoints": {"kubernetes": {"Host": "https://k"}}}',
    ],
)
def test_a_broken_context(home: Home, text: str) -> None:
    home.meta("broken").write_text(text)
    home.fails(str(home.meta("broken")), {"DOCKER_CONTEXT": "broken"})


@pytest.mark.parametrize(
    "host",
    [
        "nonsense://x",
        "fd://",
        "npipe:////./pipe/docker_engine",
        "/var/run/docker.sock",
        "127.0.0.1:2375",
        "unix//missing-colon",
        "tcp://root:hunter2@127.0.0.1:2375",
        "${DOCKER_SOCKET}",
    ],
)
def test_a_host_that_names_no_engine(home: Home, host: str) -> None:
    assert "hunter2" not in home.fails("DOCKER_HOST", {"DOCKER_HOST": host})
    home.context("odd", host)
    assert "hunter2" not in home.fails("the context 'odd'", {"DOCKER_CONTEXT": "odd"})


def test_ssh_is_refused_wherever_it_is_named(home: Home) -> None:
    assert "hunter2" not in home.fails("over ssh", {"DOCKER_HOST": "ssh://me:hunter2@there"})
    home.context("there", "ssh://there")
    home.fails("over ssh", {"DOCKER_CONTEXT": "there"})


@pytest.mark.parametrize("named", ["DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH"])
def test_certificates_that_are_missing_are_named(home: Home, tmp_path: Path, named: str) -> None:
    place = tmp_path / "certificates" if named == "DOCKER_CERT_PATH" else home.directory
    place.mkdir(exist_ok=True)
    asked = {named: str(place) if named == "DOCKER_CERT_PATH" else "1", "DOCKER_HOST": "tcp://127.0.0.1:2376"}
    for name in ("cert.pem", "key.pem"):
        home.fails(f"{named} asks for a TLS connection, and {place / name} is not there", asked)
        (place / name).touch()
    if named == "DOCKER_TLS_VERIFY":
        home.fails(f"{place / 'ca.pem'}", asked)
        (place / "ca.pem").touch()
    expected = Tls(named == "DOCKER_TLS_VERIFY", place / "ca.pem", place / "cert.pem", place / "key.pem")
    assert home.find(**asked).tls == expected


def test_the_certificates_of_a_context(home: Home) -> None:
    tls = home.context("safe", "tcp://127.0.0.1:2376")
    assert home.find(DOCKER_CONTEXT="safe").tls is None
    (tls / "ca.pem").touch()
    assert home.find(DOCKER_CONTEXT="safe").tls == Tls(True, tls / "ca.pem")
    (tls / "cert.pem").touch()
    home.fails("a certificate without its key", {"DOCKER_CONTEXT": "safe"})
    (tls / "key.pem").touch()
    assert home.find(DOCKER_CONTEXT="safe").tls == Tls(True, tls / "ca.pem", tls / "cert.pem", tls / "key.pem")
    home.context("lax", "tcp://127.0.0.1:2376", SkipTLSVerify=True)
    assert home.find(DOCKER_CONTEXT="lax").tls == Tls(False)
