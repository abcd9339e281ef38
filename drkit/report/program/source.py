"""Where the running drkit was installed from, as its installer noted it (PEP 610)."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

PACKAGE = Path(__file__).resolve().parents[2]
"""The directory of the package that runs."""


class Source(NamedTuple):
    """`lines` say it to people. `requirement` is what pip installs the very same from on any host; None where the
    source is on this host alone, or is not recorded.
    """

    lines: tuple[str, ...]
    requirement: str | None = None


def distribution() -> Distribution | None:
    """What is installed as drkit; None where nothing is. A build's leftovers in a working copy do not count."""
    return next((found for found in distributions(name="drkit") if found.read_text("WHEEL") is not None), None)


def holds_package(installed: Distribution) -> bool:
    """Whether the package that runs is the installed one, and not a working copy."""
    return Path(str(installed.locate_file(PACKAGE.name))).resolve() == PACKAGE


def installed_source() -> Source:
    installed = distribution()
    if installed is None or not holds_package(installed):
        return Source((str(PACKAGE.parent), "a working copy on the host of this kit"))
    try:
        return _source(json.loads(installed.read_text("direct_url.json") or "{}"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return _UNKNOWN


_UNKNOWN = Source(("a package index, or a package of the system: which one is not recorded",))


def _source(noted: dict[str, Any]) -> Source:
    if "url" not in noted:
        return _UNKNOWN
    given = str(noted["url"])
    url = _without_secrets(given)
    local = urlsplit(url).scheme == "file"
    for_all = not local and url == given
    if "vcs_info" in noted:
        commit = noted["vcs_info"]["commit_id"]
        url = f"{noted['vcs_info']['vcs']}+{url}"
        part = f"#subdirectory={noted['subdirectory']}" if noted.get("subdirectory") else ""
        return Source((url, f"commit {commit}"), f"{url}@{commit}{part}" if for_all else None)
    if "archive_info" in noted:
        digest = noted["archive_info"].get("hashes", {}).get("sha256")
        lines = (url, f"sha256 {digest}") if digest else (url,)
        return Source(lines, f"{url}#sha256={digest}" if digest and for_all else None)
    return Source((unquote(urlsplit(url).path) if local else url, "a directory on the host of this kit"))


def _without_secrets(url: str) -> str:
    """The URL without a password, a token in place of a user, or a query, which may be a signature."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"git@{host}" if at and user == "git" else host, query="").geturl()
