"""Which engine is meant, found as the Docker client finds it, but never another one instead.

DOCKER_HOST names it; else the context in DOCKER_CONTEXT; else the current context of the client's config.json; else it
is the one at the usual socket. What names an engine and cannot be followed is an error: the engine at the usual socket
would be another one, and its volumes other data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from drkit.errors import EngineUnavailable, UsageError, reason

USUAL = "unix:///var/run/docker.sock"
_SCHEMES = ("unix", "http+unix", "tcp", "http", "https")
_URL_HINT = "Name it like unix:///var/run/docker.sock or tcp://127.0.0.1:2376."


@dataclass(frozen=True)
class Tls:
    """The files of a TLS connection. `verify`: whether the engine's certificate is checked, against `ca` if given."""

    verify: bool
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Address:
    """An engine. `headers` go with every request; `doubts` are warnings, `notes` settings that others overrule."""

    url: str
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether the engine is reached through a socket of this host."""
        return self.url.startswith(("unix://", "http+unix://"))


def find_engine(url: str | None, environ: Mapping[str, str]) -> Address:
    """Return the engine at `url`, else the one that the environment names. An empty variable counts as unset.

    Raises EngineUnavailable, which names the setting that cannot be followed, and UsageError for an engine over ssh.
    """
    directory = _config_directory(environ)
    host = url or environ.get("DOCKER_HOST", "").strip()
    if host:
        named = environ.get("DOCKER_CONTEXT", "") if not url else ""
        notes = (f"DOCKER_HOST is used, not the context {named!a} of DOCKER_CONTEXT",) if named else ()
        address = Address(
            _checked(host, "the engine's URL" if url else "DOCKER_HOST"), _tls(environ, directory), {}, notes
        )
        try:
            return replace(address, headers=_headers(_config(directory), directory))
        except EngineUnavailable as error:
            return replace(address, doubts=(f"{error.message}: no HttpHeaders are sent to the engine",))
    config = _config(directory)
    name, source = environ.get("DOCKER_CONTEXT", ""), "DOCKER_CONTEXT"
    if not name:
        name, source = config.get("currentContext") or "default", str(directory / "config.json")
    if not isinstance(name, str):
        raise _unusable(source, "its currentContext is not a name")
    address = (
        Address(USUAL, _tls(environ, directory))
        if name == "default"
        else _in_context(name, source, directory, _tls(environ, directory))
    )
    return replace(address, headers=_headers(config, directory))


def _config_directory(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME") or str(Path.home())
    return Path(environ.get("DOCKER_CONFIG") or Path(home, ".docker"))


def _config(directory: Path) -> dict[str, Any]:
    """The client's configuration; empty where there is none."""
    return _read(directory / "config.json") or {}


def _headers(config: Mapping[str, Any], directory: Path) -> dict[str, str]:
    headers = config.get("HttpHeaders") or {}
    if not isinstance(headers, dict) or not all(isinstance(each, str) for each in headers.values()):
        raise _unusable(str(directory / "config.json"), "its HttpHeaders are not names with texts")
    return headers


def _in_context(name: str, source: str, directory: Path, tls: Tls | None) -> Address:
    """The engine of a context, as the client stores it. `tls` is what the environment says, for one without its own."""
    place = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    path = directory / "contexts" / "meta" / place / "meta.json"
    meta = _read(path)
    if meta is None:
        raise EngineUnavailable(
            f"docker engine: {source} names the context {name!a}, which does not exist in {directory}",
            hint="See docker context ls; choose one with docker context use, or name the engine in DOCKER_HOST.",
        )
    endpoints = meta.get("Endpoints")
    endpoint = endpoints.get("docker") if isinstance(endpoints, dict) else None
    host = endpoint.get("Host") if isinstance(endpoint, dict) else None
    if meta.get("Name") != name or not isinstance(endpoint, dict) or not isinstance(host, str) or not host:
        raise _unusable(str(path), f"it does not say where the engine of the context {name!a} is")
    url = _checked(host, f"the context {name!a}")
    return Address(url, _context_tls(directory / "contexts" / "tls" / place / "docker", endpoint) or tls)


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, empty for an empty file; None where there is no file."""
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if text.strip() else {}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(str(path), reason(error)) from None
    except (ValueError, RecursionError):
        raise _unusable(str(path), "it is not valid JSON") from None
    if not isinstance(document, dict):
        raise _unusable(str(path), "it does not hold a JSON object")
    return document


def _unusable(what: str, why: str) -> EngineUnavailable:
    return EngineUnavailable(
        f"docker engine: {what} cannot be used: {why}",
        hint="Mend it, or name the engine in DOCKER_HOST: which one is meant is not known.",
    )


def _checked(host: str, source: str) -> str:
    """The URL of an engine. What follows the scheme, the connection itself tries out."""
    scheme, colon, rest = host.partition("://")
    if colon and scheme == "ssh":
        raise UsageError(
            f"engine {_shown(host)}: drkit does not work over ssh", hint="Run drkit on that host, beside its engine."
        )
    if not colon or scheme not in _SCHEMES:
        raise EngineUnavailable(f"docker engine: {source} is {_shown(host)!a}, which names no engine", hint=_URL_HINT)
    if "@" in rest.partition("/")[0]:
        raise EngineUnavailable(f"docker engine: {source} has a user name in it", hint=_URL_HINT)
    return host


def _shown(host: str) -> str:
    """Without what may be a password."""
    try:
        at = urlsplit(host).netloc.rpartition("@")[0]
    except ValueError:
        at = ""
    return host.replace(f"{at}@", "") if at else host


def _tls(environ: Mapping[str, str], directory: Path) -> Tls | None:
    """The connection that DOCKER_TLS_VERIFY, DOCKER_TLS and DOCKER_CERT_PATH ask for."""
    verify, place = bool(environ.get("DOCKER_TLS_VERIFY")), environ.get("DOCKER_CERT_PATH", "")
    if not verify and not place and not environ.get("DOCKER_TLS"):
        return None
    source = "DOCKER_CERT_PATH" if place else "DOCKER_TLS_VERIFY" if verify else "DOCKER_TLS"
    found = Path(place) if place else directory
    tls = Tls(verify, found / "ca.pem", found / "cert.pem", found / "key.pem")
    for path in (tls.certificate, tls.key, tls.ca if verify else None):
        if path is not None and not path.is_file():
            raise EngineUnavailable(
                f"docker engine: {source} asks for a TLS connection, and {path} is not there",
                hint="Put ca.pem, cert.pem and key.pem into one directory, and name it in DOCKER_CERT_PATH.",
            )
    return tls


def _context_tls(directory: Path, endpoint: Mapping[str, Any]) -> Tls | None:
    """The connection that a context asks for, with the files that the client keeps for it."""
    verify = not endpoint.get("SkipTLSVerify")
    ca, certificate, key = (
        path if (path := directory / name).is_file() else None for name in ("ca.pem", "cert.pem", "key.pem")
    )
    if (certificate is None) != (key is None):
        raise _unusable(str(directory), "it holds a certificate without its key, or a key without its certificate")
    if certificate is None and ca is None and verify:
        return None
    return Tls(verify, ca, certificate, key)
