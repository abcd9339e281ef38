"""The recovery kit: one page from which a bare host gets its data back.

It has a place for the secret, and never the secret. Text and HTML have the same content, so that neither can say what
the other does not.

It installs drkit from the exact source that the drkit of this host came from, or from the program that is stored beside
the repository, and never from an index by the bare name: whoever registers that name would be root on the bare host.
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
from drkit.report.program.bundle import BY_HAND, DIRECTORY, Program
from drkit.report.program.source import Source, installed_source
from drkit.repository.holders.custody import read_custody
from drkit.repository.keys.identity import shown_recipient
from drkit.repository.keys.labels import Holder
from drkit.repository.keys.wraps import ESCROW_PREFIX
from drkit.repository.repository import Repository
from drkit.storage import S3Settings, is_s3, local_path


class Section(NamedTuple):
    """A heading with text to read and `commands` to type as they are."""

    title: str
    text: list[str]
    commands: list[str]


@dataclass(frozen=True)
class Kit:
    """What a kit says of a repository. `escrows`: storage keys of identities kept under a passphrase.

    `program` is stored beside the repository, to install drkit from; without one it is installed from `source`.
    `helpers` are the ids of the helper images that the host of this kit built.
    """

    url: str
    s3: S3Settings
    repository_id: str
    holders: list[Holder]
    unknown_holders: bool
    escrows: list[str]
    identity_place: str | None
    made: datetime
    source: Source
    program: Program | None = None
    helpers: Sequence[str] = ()

    @property
    def has_line(self) -> bool:
        """Whether an identity may be one line, as those of age are."""
        return self.unknown_holders or any(holder.recipient.startswith("age1") for holder in self.holders)


def fingerprint(recipient: str) -> str:
    """The first 16 hex digits of the SHA-256 of a public key: short enough to be compared by eye."""
    digits = hashlib.sha256(recipient.encode()).hexdigest()[:16]
    return " ".join(digits[start : start + 4] for start in range(0, 16, 4))


def make_kit(
    repository: Repository,
    access: Access,
    *,
    now: datetime,
    program: Program | None = None,
    helpers: Sequence[str] = (),
) -> Kit:
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
        source=installed_source(),
        program=program,
        helpers=helpers,
    )


def _sections(kit: Kit) -> list[Section]:
    return [_about(kit), _identity(kit), _restore(kit), _escrow(kit), _by_hand(kit), _test()]


def _about(kit: Kit) -> Section:
    lines = [f"Address        {kit.url}"]
    if kit.s3.endpoint:
        lines.append(f"Endpoint       {kit.s3.endpoint}" + (f", region {kit.s3.region}" if kit.s3.region else ""))
    elif kit.s3.region:
        lines.append(f"Region         {kit.s3.region}")
    lines += [f"Repository id  {kit.repository_id}"]
    shown = 3 if kit.program else 5  # so that it stays one page
    for number, holder in enumerate(kit.holders[:shown]):
        lead = "Opened by      " if number == 0 else _INDENT
        lines += [
            f"{lead}{shown_recipient(holder.recipient)}",
            f"{_INDENT}{fingerprint(holder.recipient)}  {holder.name}".rstrip(),
        ]
    more = [f"and {len(kit.holders) - shown} more: drkit key list"] if len(kit.holders) > shown else []
    more += ["and others whose names this host does not know"] if kit.unknown_holders or not kit.holders else []
    lines += [_INDENT + ", ".join(more)] if more else []
    shown_helpers = kit.helpers[:2] or ["none yet: after the first backup print this page again, drkit key kit"]
    lines += [f"{'Helper image   ' if number == 0 else _INDENT}{each}" for number, each in enumerate(shown_helpers)]
    source, *details = kit.source.lines
    lines += [f"Made by        drkit {__version__}, installed from {source}", *(_INDENT + line for line in details)]
    return Section("Repository", lines, [])


_INDENT = " " * 15


def _identity(kit: Kit) -> Section:
    where = f"On the host it is {kit.identity_place}." if kit.identity_place else "It is not on the host of this kit."
    place = ["Write its line here, or glue a copy here:", "", f"AGE-SECRET-KEY-1{'_' * 58}"]
    return Section(
        "Identity: the secret that opens the backups",
        [
            f"{where} Whoever has it reads everything.",
            *(place if kit.has_line else ["It is the file of an SSH private key. Glue a copy here:", "", ""]),
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
    program = _from_program(kit, kit.program) if kit.program else _from_source(kit.source)
    secret = "type the identity's line" if kit.has_line else "paste the SSH private key"
    return Section(
        "On a bare Debian host, as root",
        [*program.text, f"After cat, {secret}, Return, Ctrl-D."],
        [
            f"apt-get install -y {' '.join(sorted(['docker.io', 'python3-venv', *program.packages]))}",
            *exports,
            *program.commands,
            "export PATH=/opt/drkit/bin:$PATH",
            "umask 077; cat > identity.txt",
            "export DRKIT_IDENTITY_FILE=$PWD/identity.txt",
            "drkit snapshots",
            "drkit restore latest --volume NAME" + (_WITHOUT_HELPER if kit.helpers else ""),
        ],
    )


_WITHOUT_HELPER = "  # can build no helper? Add --trust-helper and the id above"


class _Installing(NamedTuple):
    """How drkit comes to the bare host: what to know, Debian packages that it takes, and commands."""

    text: list[str]
    packages: list[str]
    commands: list[str]


_VENV = "python3 -m venv /opt/drkit && /opt/drkit/bin/pip install"
_WHEEL = f"drkit-{__version__}-py3-none-any.whl"


def _from_source(source: Source) -> _Installing:
    warning = "The name drkit on the public package index is not ours: never install it by that name."
    later = "This installs the drkit that made this page; any later version reads this repository too."
    if source.requirement is not None:
        packages = ["git"] if source.requirement.startswith("git+") else []
        return _Installing([later, warning], packages, [f"{_VENV} \\\n  {shlex.quote(source.requirement)}"])
    keep = "Keep drkit's wheel with this page, or have drkit key kit --with-program store it with the backups."
    return _Installing([keep, warning], [], [f"{_VENV} ./{_WHEEL}"])


def _from_program(kit: Kit, program: Program) -> _Installing:
    """The hash is checked before anything is unpacked, in one command: a pasted script goes on after a failure."""
    text = [
        f"{'Any S3 client fetches drkit.' if is_s3(kit.url) else 'drkit lies beside the repository.'} "
        f"It needs {program.needs}.",
        "Whoever can write there can replace it: go on only where sha256sum says OK.",
        f"For another Python, with a network: pip install {DIRECTORY}/{_WHEEL}",
    ]
    commands = [
        f'echo "{program.sha256}  drkit.tar" |\n  sha256sum -c && tar -xf drkit.tar',
        f"{_VENV} --no-index --find-links {DIRECTORY} drkit",
    ]
    if not is_s3(kit.url):
        return _Installing(text, [], [f"cp {shlex.quote(f'{local_path(kit.url)}/{program.key}')} drkit.tar", *commands])
    options = {
        "--endpoint-url": "DRKIT_ENDPOINT" if kit.s3.endpoint else None,
        "--region": "DRKIT_REGION" if kit.s3.region else None,
        "--ca-bundle": "DRKIT_CA_BUNDLE" if kit.s3.ca_bundle else None,
    }
    given = " ".join(f'{option} "${name}"' for option, name in options.items() if name)
    download = f"aws s3 cp {shlex.quote(f'{kit.url}/{program.key}')} drkit.tar" + (f" \\\n  {given}" if given else "")
    return _Installing(text, ["awscli"], [download, *commands])


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
    if kit.program:  # then python3 is that of /opt/drkit, which has all that is needed
        text = [
            f"This writes a backup as a tar, or lists all without SNAPSHOT TARGET ({DIRECTORY}/FORMAT.md says how):"
        ]
        by_hand, pyrage = f"{DIRECTORY}/{BY_HAND}", "with Python as installed above"
    else:
        text = ["drkit's FORMAT.md has a program that writes a backup as a tar; without SNAPSHOT TARGET it lists:"]
        by_hand, pyrage = BY_HAND, "with Python and pip install pyrage"
    text.append(f"python3 {by_hand} REPOSITORY identity.txt SNAPSHOT TARGET > target.tar")
    if not kit.has_line:
        text.append("It takes identities of age alone: change one line of it to pyrage.ssh.Identity.from_buffer.")
    if not kit.escrows:
        return Section("Without drkit", text, [])
    return Section(
        "Without drkit",
        [*text, *_fetch(kit), f"The identity under the passphrase, with age, or {pyrage}:"],
        [
            f"age -d -o identity.txt {_copy_of(kit)}",
            _PYTHON_UNLOCK.format(_copy_of(kit) if is_s3(kit.url) else f"\\\n  {_copy_of(kit)}"),
        ],
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
    """The page as plain text: at most 66 lines of 100 columns, where no address is longer."""
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
