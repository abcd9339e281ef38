"""A daemon can do what the command line does: the operations need nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.lab import Lab

DAEMON = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path

from drkit.operations.backup import backup
from drkit.operations.context import Context
from drkit.operations.copy import copy
from drkit.operations.init import init, init_mirror
from drkit.operations.prune import prune
from drkit.policy import load_policy
from drkit.repository.prune.prune import Options

policy = load_policy(Path(sys.argv[1]))


def context():
    return Context(policy=policy, now=datetime.now(UTC))


with context() as run:
    made = init(run)
with context() as run:
    init_mirror(run, policy.repository.url)
with context() as run:
    first = backup(run)
with context() as run:
    second = backup(run)
with context() as run:
    copies = copy(run)
with context() as run:
    pruned = prune(run, Options(1 << 30, yes_really=True))
print(json.dumps({
    "warnings": [warned.message for warned in made.warnings],
    "errors": [str(error) for error in [*first.errors, *second.errors]],
    "statuses": [first.snapshot.status, second.snapshot.status],
    "mirrored": [first.mirror.status, len(first.mirror.copies.copied)],
    "there": len(copies.skipped),
    "forgotten": [pruned.done.forgotten, first.snapshot.id],
    "cli": [name for name in sys.modules if name.startswith(("drkit.cli", "typer", "rich"))],
}))
"""


def test_a_daemon_backs_up_copies_and_prunes_without_the_command_line(lab: Lab) -> None:
    volume = lab.volume("data", {"file": b"content"})
    policy = lab.write_policy(volume, mirror={"url": str(lab.directory / "mirror")}, retention={"keep_last": 1})
    done = subprocess.run(
        [sys.executable, "-c", DAEMON, str(policy)],
        env=lab.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    [warning] = said["warnings"]
    assert "in one place alone" in warning
    assert (said["errors"], said["statuses"], said["mirrored"]) == ([], ["ok", "ok"], ["ok", 1])
    assert said["there"] == 2
    assert said["forgotten"][0] == said["forgotten"][1:]
    assert said["cli"] == []
