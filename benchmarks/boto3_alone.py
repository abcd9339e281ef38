"""What benchmarks/run does in a bucket, and how fast boto3 alone does the transfers of a backup and of a restore.

This is a program of its own, run by the Python that drkit has, so that loading boto3 does not burden the process that
measures. It sends as many requests at once as drkit's storage does. It hashes, signs and checks a payload only where a
server demands it. Credentials come from the environment.

    boto3_alone.py ENDPOINT create BUCKET              makes the bucket
    boto3_alone.py ENDPOINT size BUCKET PREFIX         prints the bytes of all objects of the prefix
    boto3_alone.py ENDPOINT save BUCKET PREFIX DIR     copies every object into a file of an empty directory
    boto3_alone.py ENDPOINT put BUCKET PREFIX DIR      stores those files, each by one PUT
    boto3_alone.py ENDPOINT get BUCKET PREFIX          reads every object, in ranges of drkit's size
    boto3_alone.py ENDPOINT empty BUCKET               deletes every object
    boto3_alone.py ENDPOINT delete BUCKET              deletes the bucket, which is empty

put and get print the bytes moved and the seconds from the first request to the last answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from drkit.storage.s3.bucket import CONNECTIONS, PARALLEL_GETS, PARALLEL_PUTS, REQUEST_SIZE

REGION = "us-east-1"


def open_client(endpoint: str) -> Any:
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path", "payload_signing_enabled": False},
        max_pool_connections=CONNECTIONS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", endpoint_url=endpoint, region_name=REGION, config=config)


def objects(client: Any, bucket: str, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The key and the size of every object of a prefix."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            yield entry["Key"], entry["Size"]


def save(client: Any, bucket: str, prefix: str, directory: Path) -> None:
    for key, _ in objects(client, bucket, prefix):
        path = directory / key.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, key, str(path))


def put(client: Any, bucket: str, prefix: str, directory: Path) -> tuple[int, float]:
    def send(path: Path) -> int:
        body = path.read_bytes()
        client.put_object(Bucket=bucket, Key=f"{prefix}{path.relative_to(directory)}", Body=body)
        return len(body)

    return _timed(PARALLEL_PUTS, send, sorted(path for path in directory.rglob("*") if path.is_file()))


def get(client: Any, bucket: str, prefix: str) -> tuple[int, float]:
    ranges = [
        (key, start, min(start + REQUEST_SIZE, size))
        for key, size in objects(client, bucket, prefix)
        for start in range(0, size, REQUEST_SIZE)
    ]

    def receive(wanted: tuple[str, int, int]) -> int:
        key, start, end = wanted
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")
        count = len(answer["Body"].read())
        if count != end - start:
            sys.exit(f"{key}: {count} bytes came instead of {end - start}")
        return count

    return _timed(PARALLEL_GETS, receive, ranges)


def _timed(parallel: int, move: Callable[[Any], int], items: Iterable[Any]) -> tuple[int, float]:
    start = time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        return sum(pool.map(move, items)), time.monotonic() - start


def empty(client: Any, bucket: str) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in pool.map(lambda key: client.delete_object(Bucket=bucket, Key=key), dict(objects(client, bucket))):
            pass  # taking the results raises what a deletion raised


def main(argv: list[str]) -> None:
    match argv:
        case [endpoint, "create", bucket]:
            open_client(endpoint).create_bucket(Bucket=bucket)
        case [endpoint, "size", bucket, prefix]:
            print(sum(size for _, size in objects(open_client(endpoint), bucket, prefix)))
        case [endpoint, "save", bucket, prefix, directory]:
            save(open_client(endpoint), bucket, prefix, Path(directory))
        case [endpoint, "put", bucket, prefix, directory]:
            print(*put(open_client(endpoint), bucket, prefix, Path(directory)))
        case [endpoint, "get", bucket, prefix]:
            print(*get(open_client(endpoint), bucket, prefix))
        case [endpoint, "empty", bucket]:
            empty(open_client(endpoint), bucket)
        case [endpoint, "delete", bucket]:
            open_client(endpoint).delete_bucket(Bucket=bucket)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
