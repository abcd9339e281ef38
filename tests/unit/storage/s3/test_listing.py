"""A page of a listing whose entries are read before botocore reads the rest of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import pytest

from drkit.storage.s3.listing import take_entries

OBJECT = "<Contents><Key>a/b%20c</Key><Size>7</Size><ETag>x</ETag></Contents>"
MARKED = (
    "<Key>a</Key><VersionId>v1</VersionId><IsLatest>true</IsLatest><LastModified>2025-03-09T01:02:03.5Z</LastModified>"
)
VERSION = f'<Version>{MARKED}<ETag>"x"</ETag><Size>7</Size><Owner><ID>o</ID></Owner></Version>'
MARKER = f"<DeleteMarker>{MARKED}<Owner><ID>o</ID></Owner></DeleteMarker>"


def take(body: str) -> tuple[bytes, dict[str, Any]]:
    response, taken = {"body": body.encode()}, {}
    take_entries(response_dict=response, customized_response_dict=taken, operation_model=None)
    return response["body"], taken


def tags(body: bytes) -> list[str]:
    return [child.tag.rpartition("}")[2] for child in ElementTree.fromstring(body)]


@pytest.mark.parametrize("space", ["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'])
def test_objects_are_taken_and_the_rest_is_left(space: str) -> None:
    body, taken = take(f"<List{space}><IsTruncated>false</IsTruncated>{OBJECT}{OBJECT}<KeyCount>2</KeyCount></List>")
    assert taken == {"Contents": [{"Key": "a/b%20c", "Size": 7}] * 2}
    assert tags(body) == ["IsTruncated", "KeyCount"]


@pytest.mark.parametrize("space", ["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'])
def test_versions_and_markers_are_taken_and_the_rest_is_left(space: str) -> None:
    body, taken = take(f"<List{space}>{MARKER}<IsTruncated>false</IsTruncated>{VERSION}{MARKER}</List>")
    marked = {
        "Key": "a",
        "VersionId": "v1",
        "IsLatest": True,
        "LastModified": datetime(2025, 3, 9, 1, 2, 3, 500_000, UTC),
    }
    assert taken == {"Versions": [{**marked, "Size": 7, "ETag": '"x"'}], "DeleteMarkers": [marked] * 2}
    assert tags(body) == ["IsTruncated"]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no XML",
        "<List><Contents>",
        "<Error><Code>SlowDown</Code></Error>",
        "<List><KeyCount>0</KeyCount></List>",
        f"<List>{OBJECT}<Contents><Size>7</Size></Contents></List>",
        f"<List>{OBJECT}<Contents><Key>a</Key></Contents></List>",
        f"<List>{OBJECT}<Contents><Key>a</Key><Size>-1</Size></Contents></List>",
        f"<List>{OBJECT}<Contents><Key>a</Key><Size>large</Size></Contents></List>",
        f"<List>{VERSION}{MARKER.replace('true', 'maybe')}</List>",
        f"<List>{VERSION}{MARKER.replace('2025', 'spring')}</List>",
        f"<List>{VERSION.replace('v1', '')}</List>",
    ],
)
def test_what_is_not_a_list_of_entries_is_left_to_botocore(body: str) -> None:
    assert take(body) == (body.encode(), {})
