"""A page of a listing whose objects are read before botocore reads the rest of it."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from drkit.storage.s3.listing import take_objects

OBJECT = "<Contents><Key>a/b%20c</Key><Size>7</Size><ETag>x</ETag></Contents>"


def take(body: str) -> tuple[bytes, dict[str, Any]]:
    response, taken = {"body": body.encode()}, {}
    take_objects(response_dict=response, customized_response_dict=taken, operation_model=None)
    return response["body"], taken


@pytest.mark.parametrize("space", ["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'])
def test_objects_are_taken_and_the_rest_is_left(space: str) -> None:
    body, taken = take(f"<List{space}><IsTruncated>false</IsTruncated>{OBJECT}{OBJECT}<KeyCount>2</KeyCount></List>")
    assert taken == {"Contents": [{"Key": "a/b%20c", "Size": "7"}] * 2}
    assert [child.tag.rpartition("}")[2] for child in ElementTree.fromstring(body)] == ["IsTruncated", "KeyCount"]


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
    ],
)
def test_what_is_no_list_of_objects_is_left_to_botocore(body: str) -> None:
    assert take(body) == (body.encode(), {})
