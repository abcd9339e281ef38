"""Who opens which key, and how that changes: a holder is given wraps, or loses them.

After every step of a change somebody can still open all keys: new wraps come before old ones go, and the meta key comes
last when a holder is added and first when one is removed. An interrupted change is finished by making it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from drkit.errors import AccessDenied, DrkitError, IntegrityError, ObjectNotFound, counted
from drkit.repository.format.layout import kind_of
from drkit.repository.keys.identity import unwrap_with_passphrase
from drkit.repository.keys.labels import LABEL_PREFIX, Holder, Label, read_labels
from drkit.repository.keys.wraps import (
    META_PREFIX,
    data_key_wraps,
    get_wrap,
    open_wrap,
    put_escrow,
    put_key,
    wrong_key,
)
from drkit.repository.repository import Repository


class ListedWrap(NamedTuple):
    """One wrapped key: its storage key, which key it holds (`meta`, a key id or `escrow`), and its holder, if known.

    Without a label the holder is known only if one of the identities at hand opens the wrap.
    """

    key: str
    purpose: str
    holder: Holder | None
    labelled: bool


@dataclass(frozen=True)
class Custody:
    """What a listing of `keys/` and the labels tell. Only wraps that no label names are tried with identities."""

    wraps: list[ListedWrap]
    escrows: list[ListedWrap]
    labels: list[Label]

    @property
    def purposes(self) -> list[str]:
        """Every key that has a wrap: data keys first, the meta key last."""
        found = {wrap.purpose for wrap in self.wraps}
        return [*sorted(found - {_META}), _META]

    def holders(self) -> list[Holder]:
        """Everybody who is known to open a key, each once, with a name if any of their labels has one."""
        names: dict[str, str] = {}
        for wrap in self.wraps:
            if wrap.holder is not None:
                names[wrap.holder.recipient] = names.get(wrap.holder.recipient) or wrap.holder.name
        return sorted(Holder(recipient, name) for recipient, name in names.items())

    def opened_by(self, recipient: str) -> set[str]:
        """The keys, including `meta`, of which this recipient has a wrap."""
        return {wrap.purpose for wrap in self.wraps if wrap.holder is not None and wrap.holder.recipient == recipient}

    @property
    def unlabelled(self) -> list[ListedWrap]:
        return [wrap for wrap in self.wraps if wrap.holder is None]


_META = META_PREFIX.split("/")[1]


def read_custody(repository: Repository, *, meta_key_alone: bool = False) -> Custody:
    """List wraps and labels. A wrap without a label that an identity at hand opens is that identity's.

    `meta_key_alone` leaves out the data keys, of which every run has one.
    """
    prefixes = [META_PREFIX, f"{LABEL_PREFIX}{_META}/"] if meta_key_alone else ["keys/"]
    listed = [info.key for prefix in prefixes for info in repository.storage.list(prefix)]
    labels = list(read_labels(repository.storage, repository.objects, listed))
    named = {f"keys/{label.purpose}/{name}": holder for label in labels for name, holder in label.holders.items()}
    wraps, escrows = [], []
    for key in listed:
        purpose = key.split("/")[1]
        if kind_of(key) == "escrow":
            escrows.append(ListedWrap(key, purpose, named.get(key), key in named))
        elif kind_of(key) == "wrap":
            wraps.append(ListedWrap(key, purpose, named.get(key) or _opener(repository, key), key in named))
    return Custody(wraps, escrows, labels)


def _opener(repository: Repository, key: str) -> Holder | None:
    try:
        opened = open_wrap(repository.storage, key, repository.id, repository.identities)
    except (IntegrityError, ObjectNotFound):  # damaged, left by an interrupted init, or just deleted
        return None
    return Holder(opened[0].recipient) if opened and holds_right_key(repository, key, opened[1]) else None


def holds_right_key(repository: Repository, wrap: str, key: bytes) -> bool:
    """Whether the key in a wrap is the one that its place says. True where only a chunk could tell."""
    purpose = wrap.split("/")[1]
    if purpose == _META:
        return key == repository.meta.meta_key
    return repository.keys.fits(bytes.fromhex(purpose), key) is not False


def holds_another_key(repository: Repository, wrap: str) -> bool:
    """Whether an identity at hand opens this wrap and finds another key in it. Without one nobody can tell."""
    try:
        opened = open_wrap(repository.storage, wrap, repository.id, repository.identities)
    except (IntegrityError, ObjectNotFound):
        return False  # such as a wrap for a repository that was never made
    return opened is not None and not holds_right_key(repository, wrap, opened[1])


def grant(repository: Repository, holders: Sequence[Holder]) -> int:
    """Give each of these holders a whole wrap of every data key, then of the meta key. Returns how many were made.

    Runs that begin meanwhile add data keys, so this looks again until no wrap is missing. A damaged wrap counts as
    missing. An unlabelled wrap is kept, and a labelled one is added. Raises AccessDenied without an identity that opens
    all keys, and DrkitError for what a newer drkit requires (so do `revoke` and `replace_escrow`).
    """
    repository.refuse_newer()
    require_identity(repository, "giving somebody the keys")
    made: set[tuple[str, Holder]] = set()
    while True:
        custody = read_custody(repository)
        missing = list(_missing(repository, custody, holders))
        if not missing:
            return len(made)
        for purpose, lacking in missing:
            if made.intersection((purpose, holder) for holder in lacking):
                raise IntegrityError(
                    f"a key that was just wrapped does not read back from keys/{purpose}/",
                    hint="Run drkit check.",
                    object_name=f"keys/{purpose}/",
                )
            key = _authentic_key(repository, custody, purpose)
            put_key(repository.storage, repository.objects, f"keys/{purpose}/", repository.id, key, lacking)
            made.update((purpose, holder) for holder in lacking)


def _authentic_key(repository: Repository, custody: Custody, purpose: str) -> bytes:
    """Return the right key, opened with an identity at hand.

    Anybody who can write to the storage can wrap a key of their own for a public key. The id of a data key tells the
    right one. Where it does not, in repositories of an earlier version, a label, sealed under the meta key, vouches for
    the wraps it names, and the key in any other wrap must open a chunk. The meta key was checked when the repository
    was opened.
    """
    if purpose == _META:
        return repository.meta.meta_key
    key_id = bytes.fromhex(purpose)
    for wrap in sorted(custody.wraps, key=lambda wrap: not wrap.labelled):
        if wrap.purpose != purpose:
            continue
        try:
            opened = open_wrap(repository.storage, wrap.key, repository.id, repository.identities)
        except (IntegrityError, ObjectNotFound):
            continue
        if opened is not None and _is_right(repository, key_id, opened[1], labelled=wrap.labelled):
            return opened[1]
    repository.keys.get(key_id)  # if no wrap opens, this raises the reason
    raise wrong_key(f"keys/{purpose}/", [wrap.key for wrap in custody.wraps if wrap.purpose == purpose])


def _is_right(repository: Repository, key_id: bytes, key: bytes, *, labelled: bool) -> bool:
    fits = repository.keys.fits(key_id, key)
    if fits is None:
        return labelled or repository.opens_chunk(key_id, key) is not False  # nothing needs a key without chunks
    return fits


def _missing(repository: Repository, custody: Custody, holders: Sequence[Holder]) -> Iterator[tuple[str, list[Holder]]]:
    whole = {
        (wrap.purpose, wrap.holder.recipient)
        for wrap in custody.wraps
        if wrap.holder and wrap.labelled and is_whole(repository, wrap)
    }
    for purpose in custody.purposes:
        lacking = [holder for holder in holders if (purpose, holder.recipient) not in whole]
        if lacking:
            yield purpose, lacking


def is_whole(repository: Repository, wrap: ListedWrap) -> bool:
    """Whether a wrap's bytes are those it was named after."""
    try:
        get_wrap(repository.storage, wrap.key)
    except (IntegrityError, ObjectNotFound):
        return False
    return True


def revoke(repository: Repository, stays: Callable[[ListedWrap], bool]) -> int:
    """Delete every wrap for which `stays` is false, those of the meta key first. Returns how many were deleted.

    First an identity at hand must open every key through a wrap that stays; otherwise this raises DrkitError, and
    nothing is changed. Keys that somebody copied earlier still open what was stored until then. Raises AccessDenied
    after all others are deleted if the storage refuses some.
    """
    repository.refuse_newer()
    require_identity(repository, "taking the keys from somebody")
    custody = read_custody(repository)
    staying = [wrap for wrap in custody.wraps if stays(wrap)]
    for purpose in custody.purposes:
        right = _authentic_key(repository, custody, purpose)
        if not any(_opens(repository, wrap, right) for wrap in staying if wrap.purpose == purpose):
            key = "the meta key" if purpose == _META else f"data key {purpose}"
            raise DrkitError(
                f"nothing was removed: the identity at hand would no longer open {key}, and no other is proven to",
                hint="Use the identity of a recipient that stays: set DRKIT_IDENTITY_FILE.",
            )
    going = [wrap for wrap in custody.wraps if not stays(wrap)]
    gone: set[str] = set()
    denied: list[AccessDenied] = []
    for wrap in sorted(going, key=lambda wrap: wrap.purpose != _META):
        try:
            repository.storage.delete(wrap.key)
        except AccessDenied as error:
            # A wrap that somebody forged, and locked for years, opens nothing: it must not stop all others.
            if not holds_another_key(repository, wrap.key):
                denied.append(error)
        else:
            gone.add(wrap.key)
    _delete_stale_labels(repository, custody, gone)
    if denied:
        raise AccessDenied(
            f"{counted(len(denied), 'wrap')} could not be deleted, which open keys still: {denied[0].message}",
            hint="Where their lock has not ended, run the same command again once it has.",
        )
    return len(gone)


def _opens(repository: Repository, wrap: ListedWrap, right: bytes) -> bool:
    try:
        opened = open_wrap(repository.storage, wrap.key, repository.id, repository.identities)
        return opened is not None and opened[1] == right
    except (IntegrityError, ObjectNotFound):
        return False


def _delete_stale_labels(repository: Repository, custody: Custody, gone: set[str]) -> None:
    """Delete labels whose wraps were all deleted here. One without any wrap may belong to a run that just begins."""
    for label in custody.labels:
        named = {f"keys/{label.purpose}/{name}" for name in label.holders}
        if named and named <= gone:
            repository.storage.delete(label.key)


def replace_escrow(repository: Repository, passphrase: str) -> list[ListedWrap]:
    """Store the identity at hand under a new passphrase, and delete its copies under earlier passphrases.

    Returns the unlabelled copies: nobody knows whose they are, so they stay, and still open with their passphrases.
    """
    repository.refuse_newer()
    require_identity(repository, "changing the passphrase")
    identity = repository.identities[0]
    custody = read_custody(repository)
    key = put_escrow(repository.storage, repository.objects, identity, passphrase)
    if unwrap_with_passphrase(get_wrap(repository.storage, key), passphrase, source=key) is None:
        raise IntegrityError(f"{key} does not open with the passphrase it was stored under", object_name=key)
    going = {wrap.key for wrap in custody.escrows if wrap.holder and wrap.holder.recipient == identity.recipient}
    for gone in sorted(going):
        repository.storage.delete(gone)
    _delete_stale_labels(repository, custody, going)
    return [wrap for wrap in custody.escrows if wrap.holder is None]


def require_identity(repository: Repository, doing: str) -> None:
    """Raise AccessDenied on a host that holds the meta key alone."""
    if not repository.identities:
        raise AccessDenied(
            f"{doing} needs an identity; this host holds the meta key alone",
            hint="Do it where the identity is: identity_file, or DRKIT_IDENTITY_FILE.",
        )


def data_keys(repository: Repository) -> list[bytes]:
    """The ids of all data keys that have a wrap, in order."""
    return sorted({wrap.key_id for wrap in data_key_wraps(repository.storage)})
