"""The connection to the Docker Engine: the only module that knows docker-py and requests.

`Engine` sends requests and returns the engine's own documents as plain dictionaries; no foreign exception escapes it.
What can be asked of containers, images, volumes and networks stands in the modules of these names.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from http.client import HTTPException
from typing import Any, Self, cast

import docker
import docker.errors
import docker.tls
import requests
import urllib3.exceptions

from drkit.engine.address import Tls, find_engine
from drkit.errors import CaptureFailed, DrkitError, EngineUnavailable
from drkit.events import LOGGED, Events

Document = dict[str, Any]

_ANSWER_SECONDS = 60
_ALIVE_SECONDS = 10

_START_HINT = "Start the engine (systemctl start docker), or set DOCKER_HOST to one that runs."

FOREIGN_ERRORS: tuple[type[Exception], ...] = (
    docker.errors.DockerException,
    docker.errors.StreamParseError,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    HTTPException,
    json.JSONDecodeError,
    OSError,
)
_BROKEN_OFF = (
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    requests.exceptions.StreamConsumedError,
    urllib3.exceptions.ProtocolError,
    docker.errors.StreamParseError,
)


class EngineError(DrkitError):
    """The engine answered and refused. `status` is its HTTP status; 0 when it reported the failure inside a stream."""

    def __init__(self, message: str, *, hint: str | None = None, said: str = "", status: int = 0) -> None:
        super().__init__(message, hint=hint, said=said)
        self.status = status


class Engine:
    """One Docker Engine. Safe to use from several threads.

    In every request, `doing` names the object or the task; it begins the message of any error. Requests raise
    `EngineError` when the engine refuses and `EngineUnavailable` when it does not answer.
    """

    def __init__(self, api: docker.APIClient, url: str, events: Events = LOGGED, *, is_local: bool = True) -> None:
        """`is_local`: it is reached through a socket of this host, so it sees the same directories, or none of ours."""
        self._api = api
        self.url = url
        self.is_local = is_local
        self.events = events
        # Whether helpers see a directory of this host: unknown until a helper has started (see helper/launch.py).
        self.shares_directory: bool | None = None
        self.dead_helpers_removed = False  # by the first helper that is started, see there too
        self.unlisted: list[str] = []
        """What the lists of volumes may lack, in the engine's words: a plugin that does not answer."""
        self._arch: str | None = None
        self._facts: Document | None = None
        self._facts_read = 0.0
        self._background: list[threading.Thread] = []

    @classmethod
    def connect(cls, url: str | None = None, events: Events = LOGGED) -> Self:
        """Connect to `url`, else to the engine that the environment names: see `find_engine`, and what it raises.

        `events` hears what happens while the engine is used.
        """
        address = find_engine(url, os.environ)
        for note in address.notes:
            events.note(note)
        for doubt in address.doubts:
            events.warn(doubt, hint="Mend the configuration of the Docker client.")
        with translated(f"docker engine {address.url}"):
            try:
                api = docker.APIClient(base_url=address.url, timeout=_ANSWER_SECONDS, tls=_tls(address.tls))
            except Exception as error:
                # docker-py reports a bad URL as one of several foreign errors.
                if isinstance(error, FOREIGN_ERRORS):
                    raise
                if address.doubts:  # docker-py reads the same file, and trips over some that are not what it expects
                    raise EngineUnavailable(address.doubts[0], hint="Mend that file, or move it away.") from error
                raise explain(error, "docker engine") from error
        # docker-py adds these only to requests of its own methods.
        api.headers.update(address.headers)
        return cls(api, address.url, events, is_local=address.is_local)

    def close(self) -> None:
        """Wait for work in the background, then disconnect."""
        for thread in self._background:
            thread.join()
        self._api.close()

    def in_background(self, work: Callable[[], None]) -> None:
        """Run something slow that only `close` waits for. `work` must not raise."""
        thread = threading.Thread(target=work, name="drkit-engine")
        thread.start()
        self._background.append(thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the engine itself

    def version(self) -> Document:
        return cast("Document", self.get("docker engine", "/version"))

    def info(self) -> Document:
        return cast("Document", self.get("docker engine", "/info"))

    def learn(self) -> None:
        """Fetch `facts` and `arch` now, so that their first use need not wait for the engine."""
        self._arch = str(self.version()["Arch"])
        self._facts = self.info()
        self._facts_read = time.monotonic()

    def facts(self) -> Document:
        """The first `info()`, kept: for what does not change while the engine runs."""
        if self._facts is None:
            self.learn()
        return cast("Document", self._facts)

    def arch(self) -> str:
        """The engine's architecture, named as in image configurations ("amd64")."""
        if self._arch is None:
            self.learn()
        return cast("str", self._arch)

    def time(self) -> datetime:
        """The engine's own clock, aware, UTC."""
        stamp = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(self.facts()["SystemTime"])))
        return stamp + timedelta(seconds=time.monotonic() - self._facts_read)

    def require_alive(self, error: DrkitError) -> None:
        """Return where `error` is about what was asked for alone; raise it where no engine answers any more.

        One volume driver that hangs lets a request time out, and the engine is well.
        """
        if isinstance(error, EngineUnavailable):
            try:
                self.get("docker engine", "/version", timeout=_ALIVE_SECONDS)
            except EngineUnavailable:
                raise error from None

    # -- requests

    def get(
        self, doing: str, path: str, *, params: Mapping[str, object] | None = None, timeout: float = _ANSWER_SECONDS
    ) -> Any:
        """Return the decoded answer to a question. `timeout` in seconds."""
        with translated(doing):
            return self._send("GET", path, params=params, timeout=timeout).json()

    def look_up(self, doing: str, path: str) -> Document | None:
        """Return the document of one object; None when it does not exist."""
        try:
            document = self.get(doing, path)
        except EngineError as error:
            if error.status == 404:
                return None
            raise
        if not isinstance(document, dict):
            raise EngineError(f"{doing}: the engine did not answer with a description of it")
        return document

    def post(
        self, doing: str, path: str, body: Document | None = None, *, params: Mapping[str, object] | None = None
    ) -> Any:
        """Have something done; return the decoded answer, None when it is empty."""
        with translated(doing):
            response = self._send("POST", path, json=body, params=params, timeout=_ANSWER_SECONDS)
            return response.json() if response.content else None

    def delete(self, doing: str, path: str, *, params: Mapping[str, object] | None = None) -> bool:
        """Remove one object; False when it did not exist."""
        try:
            with translated(doing):
                self._send("DELETE", path, params=params, timeout=_ANSWER_SECONDS)
        except EngineError as error:
            if error.status == 404:
                return False
            raise
        return True

    @contextmanager
    def stream(
        self, doing: str, method: str, path: str, *, silence: float | None, capturing: bool = False, **request: Any
    ) -> Iterator[requests.Response]:
        """Send a request whose answer the block reads as it arrives. On entry the engine has accepted the request.

        `silence` bounds each wait for more of the answer, in seconds; None waits without limit. `capturing`: an answer
        that breaks off is a CaptureFailed. `request` holds arguments of `requests`, such as `params` and `data`.
        """
        with (
            translated(doing, capturing=capturing),
            closing(self._send(method, path, stream=True, timeout=(_ANSWER_SECONDS, silence), **request)) as response,
        ):
            yield response

    def hijack(self, doing: str, start: Callable[[docker.APIClient], Any]) -> socket.socket:
        """Return the raw connection that docker-py's `start` takes over from HTTP. The caller closes it."""
        with translated(doing):
            raw = start(self._api)
            connection = cast("socket.socket", getattr(raw, "_sock", raw))
            if connection.__class__ is not socket.socket:  # with TLS it keeps alive the response that it depends on
                return connection
            # A descriptor of our own: docker-py's is closed when its response is garbage-collected.
            own = connection.dup()
            raw.close()
            connection.close()
            return own

    def _send(self, method: str, path: str, **request: Any) -> requests.Response:
        """Raise docker-py's error when the engine refuses."""
        response = self._api.request(method, f"{self._api.base_url}/v{self._api.api_version}{path}", **request)
        try:
            response.raise_for_status()
        except requests.exceptions.HTTPError as error:
            docker.errors.create_api_error_from_http_exception(error)
        return response


def _tls(files: Tls | None) -> docker.tls.TLSConfig | bool:
    if files is None:
        return False
    certificate = (str(files.certificate), str(files.key)) if files.certificate and files.key else None
    return docker.tls.TLSConfig(
        client_cert=certificate, ca_cert=str(files.ca) if files.ca else None, verify=files.verify
    )


def filters(**conditions: Iterable[str]) -> dict[str, str]:
    """The query parameters of a list whose objects must meet all conditions: `filters(label=["a=b"])`."""
    return {"filters": json.dumps({key: list(values) for key, values in conditions.items()})}


# -- errors


@contextmanager
def translated(doing: str, *, capturing: bool = False) -> Iterator[None]:
    """Let only drkit's errors out of the block; see `explain` for the arguments."""
    try:
        yield
    except DrkitError:
        raise
    except FOREIGN_ERRORS as error:
        raise explain(error, doing, capturing=capturing) from error


def explain(error: Exception, doing: str, *, capturing: bool = False) -> DrkitError:
    """The drkit error for a foreign one.

    `doing` names the object or the task. `capturing`: the data of a target was being read, so a stream that breaks off
    is a CaptureFailed.
    """
    if isinstance(error, docker.errors.APIError):
        said = str(error.explanation or "").strip() or f"the engine answered {error.status_code}"
        return EngineError(f"{doing}: {said}", said=said, status=error.status_code or 0)
    if isinstance(error, docker.errors.TLSParameterError):
        return EngineUnavailable(f"{doing}: {error}", hint="Check DOCKER_CERT_PATH, or the files of the context.")
    if isinstance(error, docker.errors.InvalidVersion):
        return EngineUnavailable(f"{doing}: {error}", hint="Upgrade the Docker Engine to 20.10 or later.")
    if isinstance(error, _BROKEN_OFF):
        if capturing:
            return CaptureFailed(f"{doing}: the engine's stream broke off in the middle ({error})", said=str(error))
        return EngineUnavailable(
            f"{doing}: the engine broke off its answer ({error})", hint=_START_HINT, said=str(error)
        )
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return EngineUnavailable(
            f"{doing}: the engine did not answer in time", hint="See its log: journalctl -u docker."
        )
    cause = _root_cause(error)
    return EngineUnavailable(f"{doing}: {cause}", hint=_connection_hint(error), said=cause)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it wraps: docker-py, requests and urllib3 each keep the cause somewhere else."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        one = todo.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [*one.args, one.__cause__, one.__context__, getattr(one, "reason", None)]


def _root_cause(error: Exception) -> str:
    for one in _chain(error):
        if isinstance(one, OSError) and one.strerror and not isinstance(one, requests.exceptions.RequestException):
            return one.strerror.lower()
    return str(error) or type(error).__name__


def _connection_hint(error: Exception) -> str:
    if any(isinstance(one, PermissionError) for one in _chain(error)):
        return "Run drkit as root, or as a member of the docker group."
    return _START_HINT
