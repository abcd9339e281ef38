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

import pytest

from drkit.report.recovery_kit import Kit, fingerprint, kit_html, kit_text
from drkit.repository.keys.identity import generate_identity
from drkit.repository.keys.labels import Holder
from drkit.storage import S3Settings

ESCROW = "keys/escrow/" + "ab" * 32
HOLDERS = [Holder(generate_identity().recipient, f"holder {number}") for number in range(7)]
PLAIN = Kit(
    url="/var/backups/drkit",
    s3=S3Settings(),
    repository_id="0123456789abcdef" * 2,
    holders=HOLDERS[:2],
    unknown_holders=False,
    escrows=[],
    identity_place="/etc/drkit/identity.txt",
    made=datetime(2025, 3, 9, 1, 2, tzinfo=UTC),
)
FULL = replace(
    PLAIN,
    url="s3://backups/shop",
    s3=S3Settings(endpoint="https://s3.example.com:9000", region="eu-central-1", ca_bundle=Path("/etc/drkit/ca.pem")),
    holders=HOLDERS,
    unknown_holders=True,
    escrows=[ESCROW, ESCROW.replace("a", "c")],
    identity_place=None,
)
HOSTILE = "/srv/<script>alert(1)</script>/\"'&$(touch x)`"
KITS = {"plain": PLAIN, "full": FULL, "hostile": replace(PLAIN, url=HOSTILE, holders=[Holder("age1x", "<b>&")])}


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
    assert max(map(len, lines)) <= 105


def test_what_it_has_to_say() -> None:
    text = kit_text(FULL)
    for part in (
        FULL.url,
        "https://s3.example.com:9000",
        "eu-central-1",
        "/etc/drkit/ca.pem",
        FULL.repository_id,
        "2025-03-09 01:02 UTC",
        "drkit 0.1.0",
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


def test_a_fingerprint_can_be_made_by_hand() -> None:
    recipient = HOLDERS[0].recipient
    assert fingerprint(recipient).replace(" ", "") == hashlib.sha256(recipient.encode()).hexdigest()[:16]


def test_a_hostile_address_stays_one_word_of_the_shell() -> None:
    [line] = [line for line in kit_text(KITS["hostile"]).splitlines() if "export DRKIT_REPOSITORY" in line]
    assert shlex.split(line.strip()) == ["export", f"DRKIT_REPOSITORY={HOSTILE}"]
    assert f"DRKIT_REPOSITORY={shlex.quote(HOSTILE)}" in unescape(kit_html(KITS["hostile"]))
