"""What this host remembers of a repository: its id and meta key, and the newest snapshot seen there.

Wraps are made for public keys, so whoever can write to the storage can put another repository in its place that the
same identity opens. And a repository can be set back to an earlier state, which nothing in it tells.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from drkit.errors import DrkitError, IntegrityError
from drkit.host.private_file import replace
from drkit.repository.repository import Repository

log = logging.getLogger(__name__)


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this host keeps what must outlive a run: $DRKIT_STATE_DIR, $STATE_DIRECTORY, /var/lib/drkit."""
    return Path(environ.get("DRKIT_STATE_DIR") or environ.get("STATE_DIRECTORY") or "/var/lib/drkit")


@dataclass(frozen=True)
class Seen:
    """The last that this host saw of the repository at a URL. `newest`: a snapshot's id; empty where there was none.

    `config_mac`: an id can be copied, this cannot be made without the meta key.
    """

    url: str
    repository: str
    config_mac: str
    newest: str = ""
    snapshots: int = 0


class SeenRepositories:
    """One file a URL below the state directory. A damaged or missing one is as if the URL had never been seen."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "repositories"

    def path(self, url: str) -> Path:
        return self._directory / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.json"

    def seen(self, url: str) -> Seen | None:
        path = self.path(url)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            seen = Seen(
                str(fields["url"]),
                str(fields["repository"]),
                str(fields["config_mac"]),
                str(fields["newest"]),
                int(fields["snapshots"]),
            )
            if seen.url != url or len(bytes.fromhex(seen.repository)) != 16:
                raise ValueError(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            log.warning("%s cannot be read: whether another repository took the place of %s is not known", path, url)
            return None
        return seen

    def require_same(self, repository: Repository, *, accepted: str | None = None) -> None:
        """Raise IntegrityError where another repository was seen at this URL, unless `accepted` is the new one's id."""
        url, found = repository.storage.url, repository.id.hex()
        if accepted is not None and accepted != found:
            raise IntegrityError(
                f"{url} holds the repository {found}, not {accepted}", hint="Find out who made that repository."
            )
        seen = self.seen(url)
        if seen is None or accepted is not None or _same(seen, repository):
            return
        other = (
            "with another meta key or another config"
            if found == seen.repository
            else f"and this host knows {seen.repository} there"
        )
        raise IntegrityError(
            f"{url} holds the repository {found} {other}: somebody put it in its place",
            hint=f"If you put another repository there yourself: drkit backup --accept-repository {found}.",
            object_name="config",
        )

    def tell_if_set_back(self, repository: Repository, listed: Collection[str]) -> None:
        """Warn when the newest snapshot that this host knows of is not among the records that are there now."""
        seen = self.seen(repository.storage.url)
        if seen is None or not _same(seen, repository) or not seen.newest or seen.newest in listed:
            return
        log.warning(
            "snapshot %s, the newest that this host knows of in %s, is gone, and not removed from here: "
            "then there were %d snapshots, now %d",
            seen.newest,
            seen.url,
            seen.snapshots,
            len(listed),
            extra={"hint": "Find out whether somebody removed it, or the repository was set back to an earlier state."},
        )

    def remember(self, repository: Repository, listed: Collection[str]) -> None:
        """Note what is there now. Where that cannot be written it is a warning: the backup itself is safe."""
        url = repository.storage.url
        self._write(Seen(url, repository.id.hex(), repository.config_mac.hex(), max(listed, default=""), len(listed)))

    def note_removed(self, repository: Repository, removed: Collection[str]) -> None:
        """Note that this host has forgotten snapshots: when the newest is among them, its absence is no surprise."""
        seen = self.seen(repository.storage.url)
        if seen is not None and _same(seen, repository) and seen.newest in removed:
            self._write(dataclasses.replace(seen, newest="", snapshots=max(0, seen.snapshots - len(removed))))

    def _write(self, seen: Seen) -> None:
        try:
            replace(self.path(seen.url), json.dumps(asdict(seen), indent=1) + "\n")
        except DrkitError as error:
            log.warning(
                "%s: this host will not notice when another repository takes the place of %s",
                error.message,
                seen.url,
                extra={"hint": "Run as root, or name a writable directory in DRKIT_STATE_DIR."},
            )


def _same(seen: Seen, repository: Repository) -> bool:
    return (seen.repository, seen.config_mac) == (repository.id.hex(), repository.config_mac.hex())
