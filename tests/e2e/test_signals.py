"""Signals: a lost session, a second signal, and a SIGHUP that nobody is to notice."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from tests.support.lab import Lab, Volume, finish

MIB = 1 << 20


@pytest.fixture(scope="module")
def large(module_lab: Lab, seed: int) -> Volume:
    rng = random.Random(seed)
    volume = module_lab.volume("large", {f"file-{number:02d}": rng.randbytes(16 * MIB) for number in range(8)})
    module_lab.init(volume)
    module_lab.backup()
    return volume


def restore(large: Volume, new: str) -> list[str]:
    return ["restore", "latest", "--volume", large.name, "--to-volume", new]


def test_a_lost_session_leaves_no_half_volume(module_lab: Lab, large: Volume) -> None:
    """drkit on a terminal, with a progress bar there; then the terminal goes away, as with an SSH session."""
    lab, new = module_lab, module_lab.forget_later(f"{module_lab.name}-lost")
    ours, theirs = pty.openpty()
    process = lab.start(
        *restore(large, new),
        "-p",
        lab.policy,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    gone = threading.Event()

    def look() -> None:
        while not gone.is_set():
            if select.select([ours], [], [], 0.05)[0]:
                os.read(ours, 4096)

    screen = threading.Thread(target=look)
    screen.start()
    try:
        lab.wait_for_tar(process)
    finally:
        gone.set()
        screen.join()
        os.close(ours)
    assert process.wait(60) == 129
    assert not lab.exists(new)
    lab.wait_for_no_helper()
    assert list((lab.state / "restores").iterdir()) == []


def test_an_ignored_sighup_stays_ignored(module_lab: Lab, large: Volume) -> None:
    lab, new = module_lab, module_lab.forget_later(f"{module_lab.name}-nohup")
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "drkit", *restore(large, new), "-p", str(lab.policy), "--json"],
        env=lab.environment(),
        cwd=lab.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lab.wait_for_tar(process)
    process.send_signal(signal.SIGHUP)
    result = finish(process)
    assert result.code == 0, result
    assert '"verified": true' in result.stdout


@pytest.mark.parametrize("then", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_second_signal_does_not_disturb_the_undoing(module_lab: Lab, large: Volume, then: signal.Signals) -> None:
    lab, new = module_lab, module_lab.forget_later(f"{module_lab.name}-twice")
    process = lab.start(*restore(large, new), "-p", lab.policy, "--json")
    lab.wait_for_tar(process)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        time.sleep(0.02)
        process.send_signal(then)
    result = finish(process)
    assert result.code in (130, 128 + then), result  # of two that wait, the kernel gives the lower number first
    assert not lab.exists(new), result.stderr
    assert "Traceback" not in result.stderr
    assert list((lab.state / "restores").iterdir()) == []


LATE = """
import atexit, os, signal, sys
from drkit.cli import main, signals
ignore = signals.ignore
def late():
    signals.ignore = ignore
    os.kill(os.getpid(), signal.SIGTERM)
    ignore()
signals.ignore = late
# Later than the interpreter takes handlers of ours away.
class Last:
    def __del__(self, kill=os.kill, getpid=os.getpid, number=int(signal.SIGTERM)):
        kill(getpid(), number)
sys.last = Last()
sys.argv = ["drkit", "--version"]
main.main()
"""


def test_a_signal_on_the_last_steps_still_ends_in_an_exit_code() -> None:
    """Raised where nothing is undone any more, it once left the handlers in place, and the next one killed drkit."""
    done = subprocess.run(
        [sys.executable, "-c", LATE],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, ""), done
    assert done.stdout.startswith("drkit ")


LOST = """
import os, signal, time
from drkit.cli import signals
signals.install()
class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)  # raised here, where nothing can be
try:
    Dying()
    time.sleep(5)
    print("lost", flush=True)
except SystemExit as end:
    print("stopped", end.code, flush=True)
"""


def test_a_signal_in_a_destructor_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("stopped 143\n", ""), done


DYING = """
import os, signal, time
from drkit.cli import signals
signals.install()
class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
def undone():
    dying = Dying()  # lives as long as the exception, whose traceback leads to it
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
try:
    undone()
except SystemExit as end:
    print("stopped", end.code, flush=True)
time.sleep(5)
"""


def test_a_second_signal_while_the_first_exception_dies_shows_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "stopped 130\n", ""), done


WORKING = """
import os, signal, sys, threading, time
from drkit.cli import main
def work():
    threading.Thread(target=threading.Event().wait).start()  # nobody tells it to end
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    finally:
        {failure}
main._command = work
main.main()
"""


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("pass", "interrupted: what was not finished is undone"),
        ("raise RuntimeError('release unlocked lock')", "interrupted, and something may be left: internal error"),
    ],
)
def test_a_run_that_was_stopped_ends_whatever_is_left_of_it(failure: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORKING.replace("{failure}", failure)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 130, done
    assert said in done.stderr and "Traceback" not in done.stderr


LOCKING = """
import os, signal, threading, time
from drkit.cli import signals
signals.install()
condition = threading.Condition(threading.{lock}())
taken = threading.Event()
def other():
    with condition:
        condition.notify()
        taken.set()
        time.sleep(0.3)  # the waiter has been told, and waits to have the lock again
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
try:
    with condition:
        threading.Thread(target=other).start()
        condition.wait()
        time.sleep(5)
except SystemExit as end:
    print("stopped", end.code, flush=True)
"""


@pytest.mark.parametrize("lock", ["Lock", "RLock"])
def test_a_signal_while_a_lock_is_taken_back_waits_for_that(lock: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCKING.replace("{lock}", lock)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("stopped 143\n", ""), done


IMPORTING = """
import os, signal, sys, threading, time
from drkit.cli import signals
signals.install()
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "slow_to_import":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            print("found", flush=True)
sys.meta_path.insert(0, Slow())
try:
    try:
        import slow_to_import
    except ModuleNotFoundError:
        print("imported", flush=True)
    time.sleep(5)
except SystemExit as end:
    thread = threading.Thread(target=lambda: __import__("wave"))
    thread.start()
    thread.join(5)
    print("stopped", end.code, thread.is_alive(), flush=True)
"""


def test_a_signal_during_an_import_waits_for_its_end() -> None:
    """Inside the import system it could leave a lock held that the undoing needs."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split("\n")[:3] == ["found", "imported", "stopped 130 False"], done
