"""The connection to the Docker Engine: the only module that knows docker-py and requests.

`Engine` is a thin, typed layer over the low-level client: it takes names, hands out the engine's own documents as plain
dictionaries, and lets no foreign exception out. Absent objects are `None` where asking for them is a question, and an
`EngineError` where using them was an order.
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
from urllib.parse import quote

import docker
import docker.errors
import requests
import urllib3.exceptions

from drkit.engine.names import check_name, check_reference
from drkit.errors import CaptureFailed, DrkitError, EngineUnavailable, UsageError

Document = dict[str, Any]

# Most calls answer at once. Some work first: the engine spools an image before it sends its first byte, and unpacks one
# before it answers.
_ANSWER_SECONDS = 60
_WORK_SECONDS = 3600

_STREAM_CHUNK = 1 << 20
_TAR = {"Content-Type": "application/x-tar"}

_LOADED = re.compile(r"Loaded image(?: ID)?: (\S+)")


class EngineError(DrkitError):
    """The engine answered and refused. `status` is its HTTP status; 0 where it reported inside a stream."""

    def __init__(self, message: str, *, hint: str | None = None, status: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.status = status


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


def explain(error: Exception, doing: str, *, streaming: bool = False) -> DrkitError:
    """The drkit error for a foreign one. `doing` names the object; `streaming` means that data was under way."""
    if isinstance(error, docker.errors.APIError):
        said = str(error.explanation or "").strip() or f"the engine answered {error.status_code}"
        return EngineError(f"{doing}: {said}", status=error.status_code or 0)
    if isinstance(error, docker.errors.TLSParameterError | docker.errors.ContextException):
        return EngineUnavailable(f"{doing}: {error}", hint="Check DOCKER_HOST, DOCKER_CERT_PATH and docker context ls.")
    if isinstance(error, docker.errors.InvalidVersion):
        return EngineUnavailable(f"{doing}: {error}", hint="Upgrade the Docker Engine to 20.10 or later.")
    if isinstance(error, _BROKEN_OFF):
        if streaming:
            return CaptureFailed(f"{doing}: the engine's stream broke off in the middle ({error})")
        return EngineUnavailable(f"{doing}: the engine broke off its answer ({error})", hint=_START_HINT)
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return EngineUnavailable(
            f"{doing}: the engine did not answer in time", hint="See its log: journalctl -u docker."
        )
    return EngineUnavailable(f"{doing}: {_root_cause(error)}", hint=_connection_hint(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it wraps: docker-py, requests and urllib3 each put the cause somewhere else."""
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


@contextmanager
def translated(doing: str, *, streaming: bool = False) -> Iterator[None]:
    """Let only drkit's errors out of the block."""
    try:
        yield
    except DrkitError:
        raise
    except FOREIGN_ERRORS as error:
        raise explain(error, doing, streaming=streaming) from error


class Engine:
    """One Docker Engine. Safe to use from several threads."""

    def __init__(self, api: docker.APIClient, url: str) -> None:
        self._api = api
        self.url = url
        # Whether helpers can see a directory of this host, once some helper has shown it (see launch.py).
        self.shares_directory: bool | None = None
        self._arch: str | None = None
        self._facts: Document | None = None
        self._facts_read = 0.0
        self._background: list[threading.Thread] = []

    @classmethod
    def connect(cls, url: str | None = None) -> Self:
        """Connect to `url`, else to DOCKER_HOST, else to the Docker CLI's current context, else to the usual socket."""
        target = url or os.environ.get("DOCKER_HOST", "")
        if target.startswith("ssh://"):
            raise UsageError(
                f"engine {target}: drkit does not work over ssh", hint="Run drkit on that host, beside its engine."
            )
        with translated(f"docker engine {target}".rstrip()):
            environment = {**os.environ, "DOCKER_HOST": url} if url else dict(os.environ)
            try:
                api = docker.from_env(environment=environment, timeout=_ANSWER_SECONDS).api
            except Exception as error:
                # docker-py reports a broken context file as a bare Exception, and a bad URL as one of several others.
                if isinstance(error, FOREIGN_ERRORS):
                    raise
                raise explain(error, "docker engine") from error
        return cls(api, target or api.base_url)

    def close(self) -> None:
        """Wait for what goes on in the background, then disconnect."""
        for thread in self._background:
            thread.join()
        self._api.close()

    def in_background(self, work: Callable[[], None]) -> None:
        """Do something slow that nothing waits for but `close`. `work` must not raise."""
        thread = threading.Thread(target=work, name="drkit-engine")
        thread.start()
        self._background.append(thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the engine itself

    def version(self) -> Document:
        with translated("docker engine"):
            return dict(self._api.version())

    def info(self) -> Document:
        with translated("docker engine"):
            return dict(self._api.info())

    def learn(self) -> None:
        """Ask for what does not change while the engine runs, `facts` and `arch`: who uses them later need not wait."""
        self._arch = str(self.version()["Arch"])
        self._facts = self.info()
        self._facts_read = time.monotonic()

    def facts(self) -> Document:
        """`info()` of the first call: for what does not change while the engine runs."""
        if self._facts is None:
            self.learn()
        return cast("Document", self._facts)

    def arch(self) -> str:
        """The architecture in the words of image configurations ("amd64")."""
        if self._arch is None:
            self.learn()
        return cast("str", self._arch)

    def time(self) -> datetime:
        """The engine's own clock, aware, UTC."""
        stamp = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(self.facts()["SystemTime"])))
        return stamp + timedelta(seconds=time.monotonic() - self._facts_read)

    # -- volumes

    def volume(self, name: str) -> Document | None:
        check_name("volume", name)
        return self._found(f"volume {name}", lambda: self._api.inspect_volume(name))

    def volumes(self, labels: Iterable[str] = ()) -> list[Document]:
        """All volumes, or those that carry every one of `labels` ("key" or "key=value")."""
        with translated("list of volumes"):
            return list(self._api.volumes(filters={"label": list(labels)})["Volumes"] or [])

    def create_volume(
        self,
        name: str,
        driver: str = "local",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Document:
        """Create a volume. The engine also answers success for a name that exists: see volumes.py."""
        check_name("volume", name)
        with translated(f"volume {name}"):
            return self._api.create_volume(name, driver, dict(options or {}), dict(labels or {}))

    def remove_volume(self, name: str) -> bool:
        """Remove it; `False` if there was none."""
        check_name("volume", name)
        return self._removed(f"volume {name}", lambda: self._api.remove_volume(name))

    # -- images

    def image(self, ref: str) -> Document | None:
        check_reference(ref)
        return self._found(f"image {ref}", lambda: self._api.inspect_image(ref))  # type: ignore[no-untyped-call]

    def images(self, labels: Iterable[str] = ()) -> list[Document]:
        with translated("list of images"):
            return list(self._api.images(filters={"label": list(labels)}))

    def registry_has(self, ref: str, *, timeout: float) -> bool:
        """Whether a registry answers for `ref` within `timeout` seconds. Anything else is a no."""
        check_reference(ref)
        url = self._path(f"/distribution/{quote(ref, safe='/:@')}/json")
        try:
            return self._api.get(url, timeout=timeout).status_code == 200
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError):
            return False

    def pull_image(self, ref: str, *, timeout: float) -> None:
        """Pull it. `timeout` bounds every silence of the engine, not the whole."""
        check_reference(ref)
        params = {"fromImage": ref}
        if "@" not in ref and ":" not in ref.rpartition("/")[2]:
            params["tag"] = "latest"  # the engine would pull every tag
        self._run(f"pull of image {ref}", "/images/create", timeout=timeout, params=params)

    def build_image(self, context: bytes, tag: str, *, timeout: float) -> str:
        """Build an image from a tar of its context with the engine's classic builder; the new image's id."""
        self._run(
            f"build of image {tag}",
            "/build",
            timeout=timeout,
            params={"t": tag, "rm": 1, "forcerm": 1},
            data=context,
            headers=_TAR,
        )
        built = self.image(tag)
        if built is None:
            raise EngineError(f"build of image {tag}: the engine reported success, but there is no such image")
        return str(built["Id"])

    def save_image(self, refs: Iterable[str]) -> Iterator[bytes]:
        """The `docker save` archive of one or more references; raises if the engine breaks off."""
        names = [check_reference(ref) for ref in refs]
        doing = f"save of image {', '.join(names)}"
        with translated(doing, streaming=True):
            response = self._api.get(
                self._path("/images/get"),
                params={"names": names},
                stream=True,
                timeout=(_ANSWER_SECONDS, _WORK_SECONDS),
            )
            with closing(response):
                self._refuse(response)
                yield from cast("Iterator[bytes]", response.iter_content(_STREAM_CHUNK))

    def load_image(self, archive: Iterable[bytes]) -> list[str]:
        """Load a `docker save` archive; what the engine says it loaded, each an id or a tag."""
        said = self._run(
            "load of an image",
            "/images/load",
            timeout=_WORK_SECONDS,
            params={"quiet": 1},
            data=iter(archive),
            headers=_TAR,
        )
        loaded = _LOADED.findall(said)
        if not loaded:
            raise EngineError(f"load of an image: the engine loaded nothing ({said.strip() or 'no message'})")
        return loaded

    def remove_image(self, ref: str) -> bool:
        check_reference(ref)
        return self._removed(f"image {ref}", lambda: self._api.remove_image(ref))

    # -- containers

    def containers(self, labels: Iterable[str] = (), *, stopped: bool = True) -> list[Document]:
        with translated("list of containers"):
            return list(self._api.containers(all=stopped, filters={"label": list(labels)}))

    def container(self, ref: str) -> Document | None:
        check_name("container", ref)
        return self._found(f"container {ref}", lambda: self._api.inspect_container(ref))

    def create_container(self, config: Document) -> str:
        """Create a container from a document in the engine's own terms; its id."""
        with translated(f"container from image {config['Image']}"):
            return str(self._api.create_container_from_config(config)["Id"])  # type: ignore[no-untyped-call]

    def start_container(self, container: str) -> None:
        with translated(f"container {container[:12]}"):
            self._api.start(container)

    def remove_container(self, container: str) -> bool:
        """Kill and remove it with its anonymous volumes; `False` if it is gone or already on its way out."""
        try:
            return self._removed(
                f"container {container[:12]}", lambda: self._api.remove_container(container, v=True, force=True)
            )
        except EngineError as error:
            if error.status == 409:
                return False
            raise

    def removal(self, container: str) -> Callable[[], int]:
        """Begin to wait for the end and removal of an auto-removed container; on return the engine is waiting.

        The result blocks until then, for the exit code.
        """
        doing = f"container {container[:12]}"
        with translated(doing):
            response = self._api.post(
                self._path(f"/containers/{container}/wait"),
                params={"condition": "removed"},
                stream=True,
                timeout=(_ANSWER_SECONDS, None),
            )
            self._refuse(response)

        def exit_code() -> int:
            with translated(doing), closing(response):
                return int(response.json()["StatusCode"])

        return exit_code

    def attach(self, container: str, **streams: int) -> socket.socket:
        """The raw connection to a container's streams (stdin=1, stdout=1, stderr=1). The caller closes it."""
        with translated(f"container {container[:12]}"):
            raw = self._api.attach_socket(container, params={"stream": 1, **streams})
            connection = cast("socket.socket", getattr(raw, "_sock", raw))
            if connection.__class__ is not socket.socket:  # TLS: it keeps alive the response that it hangs on
                return connection
            # A descriptor of our own: docker-py's would be closed when the response is collected.
            own = connection.dup()
            raw.close()
            connection.close()
            return own

    def out_of_memory(self, container: str) -> bool:
        """Whether the kernel killed something in this container for want of memory, as far as the engine remembers."""
        with translated(f"container {container[:12]}"):
            response = self._api.get(
                self._path("/events"),
                params={
                    "since": "1",
                    "until": f"{self.time().timestamp():.9f}",  # engines before 23 read no other form
                    "filters": json.dumps({"container": [container], "event": ["oom"]}),
                },
                timeout=_ANSWER_SECONDS,
            )
            self._refuse(response)
            return bool(response.content.strip())

    # -- how the calls are made

    def _path(self, path: str) -> str:
        return f"{self._api.base_url}/v{self._api.api_version}{path}"

    def _run(self, doing: str, path: str, *, timeout: float, **request: Any) -> str:
        """POST, and read the engine's progress messages to the end. It reports failure inside them, after a 200."""
        said = ""
        with translated(doing):
            response = self._api.post(self._path(path), stream=True, timeout=(_ANSWER_SECONDS, timeout), **request)
            with closing(response):
                self._refuse(response)
                for line in response.iter_lines():
                    message = json.loads(line) if line.strip() else {}
                    if "error" in message:
                        raise EngineError(f"{doing}: {message['error']}")
                    said += message.get("stream", "")
        return said

    def _refuse(self, response: requests.Response) -> None:
        """Raise docker-py's error if the engine's answer is one."""
        try:
            response.raise_for_status()
        except requests.exceptions.HTTPError as error:
            docker.errors.create_api_error_from_http_exception(error)

    def _found(self, doing: str, ask: Callable[[], Document]) -> Document | None:
        with translated(doing):
            try:
                return ask()
            except docker.errors.NotFound:
                return None

    def _removed(self, doing: str, remove: Callable[[], None]) -> bool:
        with translated(doing):
            try:
                remove()
            except docker.errors.NotFound:
                return False
            return True
