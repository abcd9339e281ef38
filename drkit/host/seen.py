"""What this host remembers of a repository: its id and meta key, and the newest snapshot seen there.

Wraps are made for public keys, so whoever can write to the storage can put another repository in its place that the
same identity opens. And a repository can be set back to an earlier state, which nothing in it reveals.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from drkit.errors import DrkitError, IntegrityError
from drkit.events import LOGGED, Events
from drkit.host.private_file import STATE_HINT, replace


@dataclass(frozen=True)
class Found:
    """The repository that is at a place now. `place` identifies the place, `url` is for messages.

    `config_mac`, in hex like the id: an id can be copied, this cannot be made without the meta key.
    """

    place: str
    url: str
    repository: str
    config_mac: str


@dataclass(frozen=True)
class Seen:
    """What this host last saw at a place. `newest`: a snapshot's id; empty where there was none.

    `holders`: the public keys that opened the repository when this host last backed up into it.
    """

    place: str
    repository: str
    config_mac: str
    newest: str = ""
    snapshots: int = 0
    holders: tuple[str, ...] = ()

    def is_of(self, found: Found) -> bool:
        return (self.repository, self.config_mac) == (found.repository, found.config_mac)


class SeenRepositories:
    """One file per place below `directory`. A damaged or missing one is as if the place had never been seen."""

    def __init__(self, directory: Path, events: Events = LOGGED) -> None:
        self._directory = directory
        self._events = events

    def path(self, place: str) -> Path:
        return self._directory / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"

    def seen(self, found: Found) -> Seen | None:
        """Return what was seen at the place of `found`, None where nothing was."""
        path = self.path(found.place)
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else None
            if text is None:
                path = self.path(found.url)
                text = path.read_text(encoding="utf-8")
            return _read(text, found)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            self._events.warn(
                f"{path} cannot be read: this host cannot tell whether another repository took the place of {found.url}"
            )
            return None

    def require_same(self, found: Found, *, accepted: str | None = None) -> None:
        """Raise IntegrityError where this host saw another repository here, unless `accepted` is the id of this one."""
        if accepted is not None and accepted != found.repository:
            raise IntegrityError(
                f"{found.url} holds the repository {found.repository}, not {accepted}",
                hint="Find out who made that repository.",
            )
        seen = self.seen(found)
        if seen is None or accepted is not None or seen.is_of(found):
            return
        other = (
            "with another meta key or another config"
            if found.repository == seen.repository
            else f"and this host knows {seen.repository} there"
        )
        raise IntegrityError(
            f"{found.url} holds the repository {found.repository} {other}: somebody put it in its place",
            hint=f"If you put another repository there yourself: drkit backup --accept-repository {found.repository}.",
            object_name="config",
        )

    def warn_if_set_back(self, found: Found, listed: Collection[str]) -> None:
        """Warn when the newest snapshot that this host knows of is not among the records that are there now."""
        seen = self.seen(found)
        if seen is None or not seen.is_of(found) or not seen.newest or seen.newest in listed:
            return
        self._events.warn(
            f"snapshot {seen.newest}, the newest that this host knows of in {found.url}, is gone, and was not removed "
            f"from here: there were {seen.snapshots} snapshots then, there are {len(listed)} now",
            hint="Find out whether somebody removed it, or the repository was set back to an earlier state.",
        )

    def remember(self, found: Found, listed: Collection[str], holders: Iterable[str] = ()) -> None:
        """Note what is there now. Where that cannot be written it is a warning: the backup itself is safe."""
        newest = max(listed, default="")
        seen = Seen(found.place, found.repository, found.config_mac, newest, len(listed), tuple(sorted(holders)))
        self._write(seen, found.url)

    def note_removed(self, found: Found, removed: Collection[str]) -> None:
        """Note that this host has forgotten snapshots: when the newest is among them, its absence is no surprise."""
        seen = self.seen(found)
        if seen is not None and seen.is_of(found) and seen.newest in removed:
            left = max(0, seen.snapshots - len(removed))
            self._write(dataclasses.replace(seen, newest="", snapshots=left), found.url)

    def note_without(self, found: Found, holder: str) -> None:
        """Note that this host took the keys from a holder, whose absence is no surprise then."""
        seen = self.seen(found)
        if seen is not None and seen.is_of(found) and holder in seen.holders:
            left = tuple(each for each in seen.holders if each != holder)
            self._write(dataclasses.replace(seen, holders=left), found.url)

    def _write(self, seen: Seen, url: str) -> None:
        try:
            replace(self.path(seen.place), json.dumps(asdict(seen), indent=1) + "\n")
        except DrkitError as error:
            self._events.warn(
                f"{error.message}: this host will not notice when another repository takes the place of {url}",
                hint=STATE_HINT,
            )


def _read(text: str, found: Found) -> Seen:
    """Read a file of ours. One of an earlier version names the URL in place of the place."""
    fields = json.loads(text)
    named, expected = (fields["place"], found.place) if "place" in fields else (fields["url"], found.url)
    seen = Seen(
        found.place,
        str(fields["repository"]),
        str(fields["config_mac"]),
        str(fields["newest"]),
        int(fields["snapshots"]),
        tuple(str(holder) for holder in fields.get("holders", ())),
    )
    if named != expected or len(bytes.fromhex(seen.repository)) != 16:
        raise ValueError(named)
    return seen
