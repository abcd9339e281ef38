"""The boundary to docker-py and requests: every exception of theirs comes out as one of drkit's."""

from __future__ import annotations

import gc
import inspect
import io
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import docker.errors
import pytest
import requests
import urllib3.exceptions

from drkit.engine import containers, images, networks, volumes
from drkit.engine.client import FOREIGN_ERRORS, Engine, EngineError, explain, translated
from drkit.engine.names import check_name, check_reference
from drkit.errors import CaptureFailed, DrkitError, EngineUnavailable, UsageError
from drkit.events import Collected

# docker-py leaves the socket of a failed connection to the garbage collector, which warns.
leaves_sockets = pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def collected() -> Iterator[None]:
    """Collects the garbage of a test marked `leaves_sockets` while the warning is still its own."""
    yield
    gc.collect()


def exceptions_of(module: ModuleType) -> list[type[Exception]]:
    """Every exception class that a module defines, its warnings apart: those are not raised."""
    never = urllib3.exceptions.ProxySchemeUnsupported  # a ValueError about proxies, which docker-py does not use
    return [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception)
        and not issubclass(kind, Warning)
        and kind.__module__ == module.__name__
        and kind is not never
    ]


def bare(kind: type[Exception]) -> Exception:
    """An instance without its constructor, whose arguments differ from class to class, with what its text needs."""
    error = kind.__new__(kind)
    Exception.__init__(error, "what happened")
    texts = {"msg": "x", "param": "x", "name": "x", "partial": 1, "expected": 1, "length": b"", "explanation": None}
    for name, value in {**texts, "response": io.BytesIO() if "urllib3" in kind.__module__ else None}.items():
        if not hasattr(error, name):
            setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    "kind",
    [
        *exceptions_of(docker.errors),
        *exceptions_of(requests.exceptions),
        *exceptions_of(urllib3.exceptions),
        ConnectionResetError,
        BrokenPipeError,
        TimeoutError,
    ],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_every_foreign_exception_is_translated(kind: type[Exception]) -> None:
    assert issubclass(kind, FOREIGN_ERRORS)
    with pytest.raises(DrkitError, match="volume x: ") as caught, translated("volume x"):
        raise bare(kind)
    assert caught.value.exit_code in (1, 14)
    assert caught.value.__cause__ is not None


def test_drkits_own_errors_and_bugs_pass() -> None:
    for error in (CaptureFailed("volume x: torn"), KeyError("a bug"), ValueError("a bug")):
        with pytest.raises(type(error)) as caught, translated("volume x"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.ChunkedEncodingError("cut"),
        urllib3.exceptions.ProtocolError("cut"),
        docker.errors.StreamParseError("cut"),
    ],
)
def test_a_stream_that_breaks_off_is_a_failed_capture(error: Exception) -> None:
    assert isinstance(explain(error, "image x", capturing=True), CaptureFailed)
    assert isinstance(explain(error, "image x"), EngineUnavailable)


@leaves_sockets
@pytest.mark.usefixtures("collected")
def test_the_cause_and_the_hint_come_from_the_bottom_of_the_chain(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="no such file or directory") as caught:
        Engine.connect(f"unix://{tmp_path}/none.sock")
    assert caught.value.hint is not None and "systemctl start docker" in caught.value.hint

    error = docker.errors.DockerException("Error while fetching server API version")
    error.__cause__ = requests.exceptions.ConnectionError(
        "Connection aborted.", PermissionError(13, "Permission denied")
    )
    translated_error = explain(error, "docker engine")
    assert translated_error.message == "docker engine: permission denied"
    assert translated_error.hint is not None and "docker group" in translated_error.hint


@leaves_sockets
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("url", ["ssh://host", "nonsense://x", "unix//missing-colon", "http://[", "tcp://127.0.0.1:1"])
def test_an_engine_url_that_leads_nowhere_is_reported(url: str) -> None:
    with pytest.raises((EngineUnavailable, UsageError)) as caught:
        Engine.connect(url)
    assert caught.value.hint


@leaves_sockets
@pytest.mark.usefixtures("collected")
def test_a_broken_context_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONTEXT", "no-such-context")
    with pytest.raises(EngineUnavailable) as caught:
        Engine.connect()
    assert caught.value.hint


@pytest.fixture
def asked() -> list[bytes]:
    """The requests that `silent_engine` got."""
    return []


@pytest.fixture
def silent_engine(tmp_path: Path, asked: list[bytes]) -> Iterator[str]:
    """A socket that answers the version request and hangs up on every other."""
    path = f"{tmp_path}/engine.sock"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(path)
        listener.listen()

        def answer(connection: socket.socket) -> None:
            body = b'{"ApiVersion": "1.41"}'
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            with connection:
                while request := connection.recv(65536):
                    asked.append(request)
                    if not request.startswith(b"GET /version"):
                        return
                    connection.sendall(head + body)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"unix://{path}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@leaves_sockets
@pytest.mark.usefixtures("collected")
def test_an_engine_that_hangs_up_is_unavailable(silent_engine: str) -> None:
    with Engine.connect(silent_engine) as engine:
        with pytest.raises(EngineUnavailable):
            engine.info()
        for kind in (containers, images, networks, volumes):
            with pytest.raises(EngineUnavailable):
                kind.inspect(engine, "x1")
        for kind in (containers, networks, volumes):
            with pytest.raises(EngineUnavailable):
                kind.find(engine)
        assert images.digest_in_registry(engine, "x", timeout=1) is None
        with pytest.raises(DrkitError):
            list(images.save(engine, ["x"]))
        with pytest.raises(DrkitError):
            images.load(engine, [b"x"])


@leaves_sockets
@pytest.mark.usefixtures("collected")
def test_headers_of_the_docker_configuration_are_sent_with_every_request(
    silent_engine: str, asked: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"HttpHeaders": {"X-Proxy-Key": "open sesame"}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with Engine.connect(silent_engine) as engine, pytest.raises(EngineUnavailable):
        volumes.create(engine, "x")
    assert len(asked) == 2 and all(b"X-Proxy-Key: open sesame" in request for request in asked)


@pytest.mark.parametrize("name", ["", "-v", "a;b", "$(id)", "a\nb", "../etc", "a/b", "ä", ".x", "x\n", " x", "a%2fb"])
def test_an_invalid_docker_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a valid Docker name") as caught:
        check_name("volume", name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["a", "A9", "shop_postgres-data", "a.b", "0" * 64])
def test_docker_names_pass(name: str) -> None:
    assert check_name("volume", name) == name


@pytest.mark.parametrize("ref", ["", "-x", "a b", "a\n", "a?x=1", "a#b", "a" * 5000])
def test_an_invalid_image_reference_is_refused(ref: str) -> None:
    with pytest.raises(UsageError, match="not a valid image reference"):
        check_reference(ref)


def test_image_references_pass() -> None:
    for ref in ("shop/api:1.4", "registry:5000/a/b@sha256:" + "0" * 64, "sha256:" + "0" * 64, "alpine"):
        assert check_reference(ref) == ref


def test_an_engine_error_keeps_its_status() -> None:
    assert EngineError("x", status=409).status == 409
    assert EngineError("x").exit_code == 1


@leaves_sockets
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize(("text", "fails"), [("{", False), ("[]", True)])
def test_a_broken_configuration_beside_docker_host(
    silent_engine: str, text: str, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is known. docker-py reads the file too, and cannot work with every content."""
    (tmp_path / "config.json").write_text(text)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    events = Collected()
    if fails:
        with pytest.raises(EngineUnavailable, match=r"config\.json cannot be used: it does not hold a JSON object"):
            Engine.connect(silent_engine, events=events)
    else:
        Engine.connect(silent_engine, events=events).close()
    assert "config.json cannot be used" in events.warnings[0].message
