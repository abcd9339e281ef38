"""The recovery kit: the same page as text and as HTML, for whatever a repository is called."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest

from drkit.report.program.bundle import Program
from drkit.report.program.source import Source
from drkit.report.recovery_kit import Kit, fingerprint, kit_html, kit_text
from drkit.repository.keys.identity import generate_identity
from drkit.repository.keys.labels import Holder
from drkit.storage import S3Settings

ESCROW = "keys/escrow/" + "ab" * 32
HOLDERS = [Holder(generate_identity().recipient, f"holder {number}") for number in range(7)]
DIRECTORY = Source(("/root/drkit", "a directory on the host of this kit"))
COMMIT = "0a" * 20
GIT = Source(
    ("git+https://git.example.com/ops/drkit.git", f"commit {COMMIT}"),
    f"git+https://git.example.com/ops/drkit.git@{COMMIT}",
)
PROGRAM = Program(
    f"program/drkit-0.1.0-cp311-x86_64-{'5e' * 6}.tar", "5e" * 32, "CPython 3.11, Linux x86_64, glibc 2.36 or newer"
)
HELPERS = [f"sha256:{digit * 64}" for digit in "ab"]
PLAIN = Kit(
    url="/var/backups/drkit",
    s3=S3Settings(),
    repository_id="0123456789abcdef" * 2,
    holders=HOLDERS[:2],
    unknown_holders=False,
    escrows=[],
    identity_place="/etc/drkit/identity.txt",
    made=datetime(2025, 3, 9, 1, 2, tzinfo=UTC),
    source=DIRECTORY,
)
FULL = replace(
    PLAIN,
    url="s3://backups/shop",
    s3=S3Settings(endpoint="https://s3.example.com:9000", region="eu-central-1", ca_bundle=Path("/etc/drkit/ca.pem")),
    holders=HOLDERS,
    unknown_holders=True,
    escrows=[ESCROW, ESCROW.replace("a", "c")],
    identity_place=None,
    source=GIT,
    helpers=HELPERS,
)
HOSTILE = "/srv/<script>alert(1)</script>/\"'&$(touch x)`"
KITS = {
    "plain": PLAIN,
    "plain with a program": replace(PLAIN, program=PROGRAM, escrows=FULL.escrows),
    "full": FULL,
    "full with a program": replace(FULL, program=PROGRAM),
    "hostile": replace(PLAIN, url=HOSTILE, holders=[Holder("age1x", "<b>&")]),
}


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", KITS)
def test_the_page_loads_nothing_and_runs_nothing(name: str) -> None:
    page = kit_html(KITS[name])
    tags = Tags(page)
    assert {tag for tag, _ in tags.tags} == {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "pre"}
    for _, attributes in tags.tags:
        assert not {"src", "href", "style", "onload", "onclick"} & set(attributes)
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_of_the_page_allows_its_own_style_alone() -> None:
    page = kit_html(PLAIN)
    [policy] = [each["content"] for tag, each in Tags(page).tags if each.get("http-equiv") == "Content-Security-Policy"]
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'"


@pytest.mark.parametrize("name", KITS)
def test_both_pages_say_the_same(name: str) -> None:
    def lines(text: str) -> set[str]:
        return {line.strip().lower() for line in text.splitlines() if line.strip()}

    text, page = lines(kit_text(KITS[name])), lines(Tags(kit_html(KITS[name])).text)
    assert {line for line in text - page if not line.startswith(("drkit recovery kit", "print this page"))} == set()


@pytest.mark.parametrize("name", KITS)
def test_it_is_one_page(name: str) -> None:
    lines = kit_text(KITS[name]).splitlines()
    assert len(lines) <= 66
    assert max(map(len, lines)) <= 100


def test_what_it_has_to_say() -> None:
    text = kit_text(FULL)
    for part in (
        FULL.url,
        "https://s3.example.com:9000",
        "eu-central-1",
        "/etc/drkit/ca.pem",
        FULL.repository_id,
        "2025-03-09 01:02 UTC",
        "drkit 0.1.0, installed from git+https://git.example.com/ops/drkit.git",
        f"commit {COMMIT}",
        *HELPERS,
    ):
        assert str(part) in text
    for holder in HOLDERS[:5]:
        assert holder.recipient in text
        assert holder.name in text
        assert fingerprint(holder.recipient) in text
    assert "and 2 more: drkit key list" in text
    assert "and others whose names this host does not know" in text
    assert "AGE-SECRET-KEY-1____" in text
    assert "drkit key prove" in text
    assert "drkit key unlock" in text
    assert "drkit key unlock" not in kit_text(PLAIN)
    assert "Add --trust-helper and the id above" in text
    assert "--trust-helper" not in kit_text(PLAIN)
    assert "Helper image   none yet" in kit_text(PLAIN)


def test_a_fingerprint_can_be_made_by_hand() -> None:
    recipient = HOLDERS[0].recipient
    assert fingerprint(recipient).replace(" ", "") == hashlib.sha256(recipient.encode()).hexdigest()[:16]


def test_a_hostile_address_stays_one_word_of_the_shell() -> None:
    [line] = [line for line in kit_text(KITS["hostile"]).splitlines() if "export DRKIT_REPOSITORY" in line]
    assert shlex.split(line.strip()) == ["export", f"DRKIT_REPOSITORY={HOSTILE}"]
    assert f"DRKIT_REPOSITORY={shlex.quote(HOSTILE)}" in unescape(kit_html(KITS["hostile"]))


# --- installing drkit


def commands(kit: Kit) -> list[str]:
    """What is to be typed, each command in one line."""
    shown = [line for line in kit_text(kit).splitlines() if line.startswith("    ") and line.strip()]
    joined = "\n".join(line[4:] for line in shown if not line.startswith(" " * 17))
    return re.sub(r"(\\|\|)\n  ", lambda match: "| " if match[1] == "|" else "", joined).splitlines()


@pytest.mark.parametrize("name", KITS)
def test_no_command_installs_whatever_an_index_calls_drkit(name: str) -> None:
    installing = [command for command in commands(KITS[name]) if "pip install" in command]
    assert installing
    for command in installing:
        after = command.partition("pip install")[2].split()
        assert "--no-index" in after or "drkit" not in after, command
    assert "is not ours: never install it by that name" in kit_text(replace(KITS[name], program=None))


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (GIT, f"install git+https://git.example.com/ops/drkit.git@{COMMIT}"),
        (Source(("x",), "https://example.com/x.whl#sha256=0b"), "install 'https://example.com/x.whl#sha256=0b'"),
        (Source(("x",), "git+https://x/$(touch y)@0"), "install 'git+https://x/$(touch y)@0'"),
        (DIRECTORY, "install ./drkit-0.1.0-py3-none-any.whl"),
    ],
)
def test_without_a_program_it_installs_the_very_source_or_a_wheel_on_hand(source: Source, command: str) -> None:
    kit = replace(PLAIN, source=source)
    assert f"python3 -m venv /opt/drkit && /opt/drkit/bin/pip {command}" in commands(kit)
    assert (" git " in commands(kit)[0]) == command.startswith(("install git+", "install 'git+"))
    assert all(line in kit_text(kit) for line in source.lines)


def test_with_a_program_nothing_is_unpacked_before_its_hash_is_right() -> None:
    kit = KITS["plain with a program"]
    place = commands(kit).index(f"cp {kit.url}/{PROGRAM.key} drkit.tar")
    check, install = commands(kit)[place + 1 : place + 3]
    assert check == f'echo "{PROGRAM.sha256}  drkit.tar" | sha256sum -c && tar -xf drkit.tar'
    assert install.endswith("pip install --no-index --find-links program drkit")
    assert PROGRAM.needs in kit_text(kit)


def test_from_a_bucket_it_is_downloaded_with_the_settings_of_the_kit() -> None:
    kit = KITS["full with a program"]
    shown = commands(kit)
    [download] = [command for command in shown if command.startswith("aws ")]
    options = '--endpoint-url "$DRKIT_ENDPOINT" --region "$DRKIT_REGION" --ca-bundle "$DRKIT_CA_BUNDLE"'
    assert download == f"aws s3 cp s3://backups/shop/{PROGRAM.key} drkit.tar {options}"
    assert " awscli " in shown[0]
    for name in ("DRKIT_ENDPOINT", "DRKIT_REGION", "DRKIT_CA_BUNDLE", "AWS_ACCESS_KEY_ID"):
        [export] = [number for number, line in enumerate(shown) if line.startswith(f"export {name}")]
        assert export < shown.index(download)
    plain = commands(replace(kit, s3=S3Settings()))
    assert f"aws s3 cp s3://backups/shop/{PROGRAM.key} drkit.tar" in plain


def test_a_hostile_address_stays_one_word_of_each_command() -> None:
    url = f"file://{quote(HOSTILE)}"  # as a path it would be refused, since it holds a $
    [line] = [line for line in commands(replace(KITS["hostile"], url=url, program=PROGRAM)) if line.startswith("cp ")]
    assert shlex.split(line) == ["cp", f"{HOSTILE}/{PROGRAM.key}", "drkit.tar"]
