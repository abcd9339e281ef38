"""The variables `DRKIT_*` of the environment. An empty one counts as unset, and none is taken for another.

Where each is used, an option of the command line wins over it, and it wins over the policy.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from drkit.errors import UsageError
from drkit.literal import not_literal

VARIABLES = frozenset(
    {
        "DRKIT_CACHE_DIR",
        "DRKIT_CA_BUNDLE",
        "DRKIT_ENDPOINT",
        "DRKIT_EXCHANGE_DIR",
        "DRKIT_EXCHANGE_VOLUME",
        "DRKIT_IDENTITY_FD",
        "DRKIT_IDENTITY_FILE",
        "DRKIT_PASSPHRASE_FILE",
        "DRKIT_POLICY",
        "DRKIT_REGION",
        "DRKIT_REPOSITORY",
        "DRKIT_STATE_DIR",
    }
)
"""What drkit reads; docs/environment.md explains each."""
_PREFIX = "DRKIT_"
_OF_SCRIPTS = frozenset(
    f"{_PREFIX}{name}"
    for name in (
        *("DEMO_DIR", "DEBIAN_MIRROR", "ENGINE_ROOT", "TEST_ENGINES", "TEST_SEED"),
        *("S3_HTTP", "S3_HTTPS", "S3_CA", "S3_ACCESS_KEY", "S3_SECRET_KEY"),
    )
)
"""What the project's own scripts and tests hand on to each other."""


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Say of each variable that looks like one of drkit's that it is none, and which one may be meant."""
    for name in sorted(environ):
        if not name.upper().startswith(_PREFIX) or name in VARIABLES | _OF_SCRIPTS:
            continue
        close = difflib.get_close_matches(name.upper(), VARIABLES, n=1, cutoff=0.8)
        yield f"{name!a} in the environment means nothing to drkit" + (f": did you mean {close[0]}?" if close else "")


def directory_from(environ: Mapping[str, str], name: str, *, of_systemd: str = "") -> Path | None:
    """Return the directory in the variable `name`, else the first in that of systemd; None where neither names one.

    Raises UsageError for one that is not an absolute path: it would be another directory wherever drkit is started.
    """
    value = environ.get(name, "")
    if not value and of_systemd:
        name, value = of_systemd, environ.get(of_systemd, "").partition(":")[0]  # systemd may name several
    if not value:
        return None
    why = not_literal(value) or ("it is not an absolute path" if not value.startswith("/") else None)
    if why is not None:
        raise UsageError(f"{name} is {value!a}: {why}", hint=f"Set {name} to the full path of a directory.")
    return Path(value)


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return $DRKIT_CACHE_DIR, $CACHE_DIRECTORY, or the usual place. Raises UsageError for a relative one."""
    named = directory_from(environ, "DRKIT_CACHE_DIR", of_systemd="CACHE_DIRECTORY")
    if named is not None:
        return named
    if os.geteuid() == 0:
        return Path("/var/cache/drkit")
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "drkit")
