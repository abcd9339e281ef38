"""The recovery kit: one page from which a bare host gets its data back.

It has a place for the secret, and never the secret. Text and HTML have the same content, so that neither can say what
the other does not.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import NamedTuple

from drkit import __version__
from drkit.access.access import Access
from drkit.repository.holders.custody import read_custody
from drkit.repository.keys.labels import Holder
from drkit.repository.keys.wraps import ESCROW_PREFIX
from drkit.repository.repository import Repository
from drkit.storage import S3Settings, is_s3, local_path


class Section(NamedTuple):
    """A heading, and lines under it; `commands` are to be typed as they are, the rest is to be read."""

    title: str
    text: list[str]
    commands: list[str]


@dataclass(frozen=True)
class Kit:
    """What a kit says of a repository. `escrows`: storage keys of identities kept under a passphrase."""

    url: str
    s3: S3Settings
    repository_id: str
    holders: list[Holder]
    unknown_holders: bool
    escrows: list[str]
    identity_place: str | None
    made: datetime


def fingerprint(recipient: str) -> str:
    """The first 16 hex digits of the SHA-256 of a public key: short enough to be compared by eye."""
    digits = hashlib.sha256(recipient.encode()).hexdigest()[:16]
    return " ".join(digits[start : start + 4] for start in range(0, 16, 4))


def make_kit(repository: Repository, access: Access, *, now: datetime) -> Kit:
    custody = read_custody(repository)
    source = access.identity
    place = None
    if source is not None and source.file is not None:
        place = str(source.file)
    elif source is not None and source.command is not None:
        place = f"the output of {source.command[0]}"
    return Kit(
        url=repository.storage.url,
        s3=access.s3,
        repository_id=repository.id.hex(),
        holders=custody.holders(),
        unknown_holders=bool(custody.unlabelled),
        escrows=[wrap.key for wrap in custody.escrows],
        identity_place=place,
        made=now,
    )


def _sections(kit: Kit) -> list[Section]:
    return [_about(kit), _identity(kit), _restore(kit), _escrow(kit), _by_hand(kit), _test()]


def _about(kit: Kit) -> Section:
    lines = [f"Address        {kit.url}"]
    lines += [f"Endpoint       {kit.s3.endpoint}"] if kit.s3.endpoint else []
    lines += [f"Region         {kit.s3.region}"] if kit.s3.region else []
    lines += [f"Repository id  {kit.repository_id}"]
    for number, holder in enumerate(kit.holders[:5]):
        lead = "Opened by      " if number == 0 else " " * 15
        lines += [f"{lead}{holder.recipient}", f"{' ' * 15}{fingerprint(holder.recipient)}  {holder.name}".rstrip()]
    if len(kit.holders) > 5:
        lines.append(f"{' ' * 15}and {len(kit.holders) - 5} more: drkit key list")
    if kit.unknown_holders or not kit.holders:
        lines.append(f"{' ' * 15}and others whose names this host does not know")
    return Section("Repository", lines, [])


def _identity(kit: Kit) -> Section:
    where = f"On the host it is {kit.identity_place}." if kit.identity_place else "It is not on the host of this kit."
    return Section(
        "Identity: the secret that opens the backups",
        [
            f"{where} Who has it reads everything.",
            "Write its line here, or glue a copy here:",
            "",
            f"AGE-SECRET-KEY-1{'_' * 58}",
            "",
            f"A copy is kept at {'_' * 30}  by {'_' * 24}",
        ],
        [],
    )


def _restore(kit: Kit) -> Section:
    settings = {
        "DRKIT_REPOSITORY": kit.url,
        "DRKIT_ENDPOINT": kit.s3.endpoint,
        "DRKIT_REGION": kit.s3.region,
        "DRKIT_CA_BUNDLE": kit.s3.ca_bundle,
    }
    exports = [f"export {name}={shlex.quote(str(value))}" for name, value in settings.items() if value]
    if is_s3(kit.url):
        exports.append("export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...")
    return Section(
        "On a bare Debian host, as root",
        [
            "Install drkit from where you got it: any later version reads this repository too.",
            "After cat, type the identity's line, Return, Ctrl-D.",
        ],
        [
            "apt-get install -y docker.io python3-venv",
            "python3 -m venv /opt/drkit && /opt/drkit/bin/pip install drkit",
            "export PATH=/opt/drkit/bin:$PATH",
            "umask 077; cat > identity.txt",
            *exports,
            "export DRKIT_IDENTITY_FILE=$PWD/identity.txt",
            "drkit snapshots",
            "drkit restore latest --volume NAME",
        ],
    )


def _escrow(kit: Kit) -> Section:
    if not kit.escrows:
        text = ["The repository holds no copy of the identity under a passphrase: drkit key passphrase makes one."]
        return Section("Without the identity", text, [])
    return Section(
        "Without the identity, with the passphrase",
        ["Instead of cat, with DRKIT_REPOSITORY set as above; it asks for the passphrase:"],
        ["drkit key unlock -o identity.txt"],
    )


def _by_hand(kit: Kit) -> Section:
    text = [
        "drkit/repository/FORMAT.md describes the repository, and has a program that writes any backup as a tar:",
        "python3 by_hand.py REPOSITORY identity.txt SNAPSHOT TARGET > target.tar",
    ]
    if not kit.escrows:
        return Section("Without drkit", text, [])
    return Section(
        "Without drkit",
        [*text, *_fetch(kit), "The identity under the passphrase, with age, or with Python and pip install pyrage:"],
        [f"age -d -o identity.txt {_copy_of(kit)}", _PYTHON_UNLOCK.format(_copy_of(kit))],
    )


_PYTHON_UNLOCK = (
    "python3 -c 'import getpass, sys, pyrage; sys.stdout.buffer.write(pyrage.passphrase.decrypt(\n"
    '  open(sys.argv[1], "rb").read(), getpass.getpass()))\' {} > identity.txt'
)


def _fetch(kit: Kit) -> list[str]:
    return [f"Download {kit.escrows[-1]}", "from the bucket as escrow.age."] if is_s3(kit.url) else []


def _copy_of(kit: Kit) -> str:
    """The identity's copy as the commands name it; of several the last, since each has its own passphrase."""
    name = kit.escrows[-1]
    if is_s3(kit.url):
        return "escrow.age"
    pattern = ESCROW_PREFIX if len(kit.escrows) == 1 else name[: len(ESCROW_PREFIX) + 8]
    return f"{shlex.quote(f'{local_path(kit.url)}/{pattern}')}*"


def _test() -> Section:
    return Section(
        "Is this page still right? Once a quarter, with the copy that is kept with it",
        ["It opens every key with that identity, and reads a piece of data under each."],
        ["drkit key prove --identity identity.txt"],
    )


def kit_text(kit: Kit) -> str:
    """The page as plain text: at most 100 columns, about 60 lines."""
    lines = [f"drkit recovery kit   {_head(kit)}", _ADVICE]
    for section in _sections(kit):
        lines += ["", section.title.upper()]
        lines += [f"  {line}".rstrip() for line in section.text]
        lines += [f"    {line}" for command in section.commands for line in command.splitlines()]
    return "\n".join(lines) + "\n"


def kit_html(kit: Kit) -> str:
    """The page as one HTML file that loads nothing: it prints on one sheet of A4."""
    body = [f"<h1>drkit recovery kit</h1>\n<p>{escape(_head(kit))}. {escape(_ADVICE)}</p>"]
    for section in _sections(kit):
        body.append(f"<h2>{escape(section.title)}</h2>")
        body += _block("facts", section.text)
        body += _block("commands", section.commands)
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return _PAGE.format(digest=digest, style=_STYLE, body="\n".join(body))


def _block(kind: str, lines: Sequence[str]) -> list[str]:
    return [f'<pre class="{kind}">{escape(chr(10).join(lines))}</pre>'] if lines else []


def _head(kit: Kit) -> str:
    return f"made {kit.made:%Y-%m-%d %H:%M} UTC by drkit {__version__}"


_ADVICE = "Print this page. Keep it, and the identity, where a fire in the server room does not reach them."

_STYLE = """
@page { size: A4; margin: 12mm }
body { font: 9.5pt/1.3 sans-serif; color: #000; background: #fff; max-width: 186mm; margin: 0 auto }
h1 { font-size: 15pt; margin: 0 0 1mm }
h2 { font-size: 10.5pt; margin: 2.5mm 0 1mm; break-after: avoid }
p { margin: 0 }
pre { font: 8.2pt/1.3 monospace; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; break-inside: avoid }
pre.commands { border-left: 2pt solid #000; margin: 1mm 0; padding-left: 2mm }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-{digest}'">
<title>drkit recovery kit</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
