"""Images by every kind of name: what is asked for, what is saved, what is loaded and what it is called afterwards."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable

import docker
import pytest

from tests.support.engine_proxy import Answer, EngineProxy, Request
from tests.support.lab import Lab
from tests.support.registry import image_of_files, registry


def image_id(lab: Lab, reference: str) -> str:
    return str(lab.api.inspect_image(reference)["Id"])


def tags(lab: Lab) -> dict[str, str]:
    return {tag: image["Id"] for image in lab.api.images() for tag in image["RepoTags"] or []}


def ids(lab: Lab) -> set[str]:
    return {image["Id"] for image in lab.api.images()}


def failed(lab: Lab, code: int = 15, **env: str) -> str:
    """Run a backup in which all targets fail; the error of the first one."""
    result = lab.drkit("backup", "--json", env=env)
    assert result.code == code, result
    return str(json.loads(result.stdout)["targets"][0]["error"])


def digits_of_another(lab: Lab, reference: str) -> str:
    """The first digits of an image's id, such that they are a name and no tag."""
    digits = image_id(lab, reference).removeprefix("sha256:")
    return next(digits[:length] for length in range(2, 64) if digits[:length].isalnum())


def test_the_first_digits_of_an_id_are_a_name_and_name_nothing(lab: Lab) -> None:
    reference = lab.image("app", {"file": b"content"})
    short = digits_of_another(lab, reference)
    lab.init(images=[short])
    assert lab.api.inspect_image(short)["Id"] == image_id(lab, reference)  # this is how the engine reads it
    assert "no such image" in failed(lab)
    # As the name of an image it is asked for as any other.
    lab.api.tag(reference, short, "latest")
    lab.images_made.append(f"{short}:latest")
    lab.backup()


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_an_image_by_its_whole_id_comes_back_under_it(lab: Lab, prefix: str) -> None:
    reference = lab.image("app", {"file": prefix.encode() + b"content"})
    whole = image_id(lab, reference)
    name = prefix + whole.removeprefix("sha256:")
    lab.init(images=[name])
    lab.backup()
    lab.api.remove_image(reference)
    lab.images_made.remove(reference)
    document = lab.json("restore", "latest", "--image", name)
    try:
        assert (document["status"], document["verified"], document["unresolved"]) == ("ok", True, [])
        assert lab.api.inspect_image(whole)["RepoTags"] == []
    finally:
        lab.api.remove_image(whole)


def test_a_pulled_image_with_tag_and_digest(lab: Lab) -> None:
    """The tag comes back; Engine 20.10 takes no digest from an archive, and the result says so."""
    with registry(image_of_files({"file": lab.name.encode()})) as served:
        pinned = f"{served.name}:1.4@{served.digest}"
        lab.api.pull(served.name, tag=served.digest)
    whole = image_id(lab, pinned)
    assert lab.api.inspect_image(whole)["RepoTags"] == []  # as the engine leaves it
    lab.init(images=[pinned])
    lab.backup()
    # While it is there, both names lead to it.
    document = lab.json("restore", "latest", "--image", pinned)
    assert (document["status"], document["verified"], document["unresolved"]) == ("ok", True, [])
    lab.images_made.append(f"{served.name}:1.4")
    assert tags(lab)[f"{served.name}:1.4"] == whole

    lab.api.remove_image(whole, force=True)
    document = lab.json("restore", "latest", "--image", pinned, code=3)
    assert image_id(lab, f"{served.name}:1.4") == whole
    assert (document["status"], document["verified"]) == ("partial", False)
    assert document["unresolved"] == [f"{served.name}@{served.digest}"]
    said = lab.fails(3, "restore", "latest", "--image", pinned)
    assert f"docker pull {served.name}@{served.digest}" in said
    assert f"Run it as {served.name}:1.4" in said


def test_a_digest_decides_where_its_tag_has_moved_on(lab: Lab) -> None:
    other = lab.image("other", {"file": b"other"})
    with registry(image_of_files({"file": lab.name.encode()})) as served:
        lab.api.pull(served.name, tag=served.digest)
    pinned = f"{served.name}:1.4@{served.digest}"
    whole = image_id(lab, pinned)
    lab.api.tag(other, served.name, "1.4")
    lab.images_made.append(f"{served.name}:1.4")
    lab.init(images=[pinned])
    result = lab.drkit("backup")
    try:
        assert result.code == 0, result
        assert f"the tag {served.name}:1.4 is another image's here" in result.stderr
        lab.json("restore", "latest", "--image", pinned)
        assert tags(lab)[f"{served.name}:1.4"] == image_id(lab, other)
    finally:
        lab.api.remove_image(whole, force=True)


def test_a_digest_of_another_repository_is_not_taken_for_the_one_asked_for(lab: Lab) -> None:
    with registry(image_of_files({"file": lab.name.encode()})) as served:
        lab.api.pull(served.name, tag=served.digest)
    lab.init(images=[f"elsewhere.example.com/shop/api@{served.digest}"])
    try:
        assert "no such image" in failed(lab)
    finally:
        lab.api.remove_image(f"{served.name}@{served.digest}")


# --- saving


class Save:
    """What happens to requests for an image's archive: `act` is called at each, with its number from 1."""

    def __init__(self, act: Callable[[int], Answer | None]) -> None:
        self._act = act
        self.count = 0

    def __call__(self, request: Request) -> Answer | None:
        if not request.path.startswith("/images/get"):
            return None
        self.count += 1
        return self._act(self.count)


def proxy(lab: Lab, engine_url: str, act: Callable[[int], Answer | None]) -> EngineProxy:
    return EngineProxy(engine_url, lab.directory, Save(act))


def test_a_tag_that_moves_before_the_save_is_followed_once(lab: Lab, engine_url: str) -> None:
    reference, other = lab.image("app", {"file": b"old"}), lab.image("other", {"file": b"new"})
    old, new = image_id(lab, reference), image_id(lab, other)
    lab.init(images=[reference])

    def move(number: int) -> None:
        if number == 1:
            lab.api.tag(other, *reference.split(":"))

    with proxy(lab, engine_url, move) as proxied:
        document = json.loads(lab.drkit("backup", "--json", env=proxied.env).stdout)
    assert document["status"] == "ok"
    lab.api.remove_image(reference)
    assert lab.json("restore", "latest", "--image", reference)["verified"] is True
    assert image_id(lab, reference) == new
    lab.api.remove_image(old)


def test_a_tag_that_moves_at_every_save_fails_its_target_alone(lab: Lab, engine_url: str) -> None:
    reference, other = lab.image("app", {"file": b"old"}), lab.image("other", {"file": b"new"})
    ids_there = [image_id(lab, other), image_id(lab, reference)]
    good = lab.volume("good", {"file": b"content"})
    lab.init(good, images=[reference])

    def move(number: int) -> None:
        lab.api.tag(ids_there[(number + 1) % 2], *reference.split(":"))

    with proxy(lab, engine_url, move) as proxied:
        result = lab.drkit("backup", "--json", env=proxied.env)
    assert result.code == 3, result
    assert f"image {reference}: the engine's archive is not that of the image: it holds image" in result.stderr
    assert [it["status"] for it in json.loads(result.stdout)["targets"]] == ["ok", "failed"]
    lab.api.tag(ids_there[1], *reference.split(":"))
    lab.api.remove_image(ids_there[1], force=True)
    lab.images_made.remove(reference)


def saved(engine_url: str, references: list[str]) -> bytes:
    command = ["docker", "--host", engine_url, "save", *references]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize("what", ["another", "two", "none", "no image", "cut", "another tag"])
def test_an_archive_that_is_not_that_of_the_image_is_never_stored(lab: Lab, engine_url: str, what: str) -> None:
    reference, other = lab.image("app", {"file": b"app"}), lab.image("other", {"file": b"other"})
    lab.api.tag(reference, f"{lab.name}-more", "1")
    lab.images_made.append(f"{lab.name}-more:1")
    lab.init(images=[reference])
    wanted = {
        "another": [other],
        "two": [reference, other],
        "another tag": [reference, f"{lab.name}-more:1"],
        "cut": [reference],
    }.get(what, [])
    body = saved(engine_url, wanted) if wanted else bytes(10240)
    if what == "cut":
        body = body[: len(body) // 2]
    if what == "no image":
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo("manifest.json")
            entry.size = 2
            tar.addfile(entry, io.BytesIO(b"[]"))
        body = archive.getvalue()
    with proxy(lab, engine_url, lambda number: Answer(200, body, "application/x-tar")) as proxied:
        failed(lab, **proxied.env)
    assert lab.snapshots() == []


# --- loading


def test_restoring_one_image_leaves_the_tags_of_all_others(lab: Lab) -> None:
    reference = lab.image("app", {"file": b"app"})
    production = lab.image("production", {"file": b"production"})
    whole, there = image_id(lab, reference), image_id(lab, production)
    lab.init(images=[reference])
    lab.backup()
    lab.api.remove_image(reference)
    before = tags(lab)
    lab.json("restore", "latest", "--image", reference)
    assert tags(lab) == {**before, reference: whole}
    assert image_id(lab, production) == there


def test_a_tag_that_is_taken_while_the_image_loads_fails_the_restore_and_leaves_nothing(
    lab: Lab, engine_url: str
) -> None:
    reference, other = lab.image("app", {"file": b"app"}), lab.image("other", {"file": b"other"})
    lab.init(images=[reference])
    lab.backup()
    lab.api.remove_image(reference)
    before = ids(lab)

    def take(request: Request) -> None:
        if request.path.startswith("/images/load"):
            lab.api.tag(other, *reference.split(":"))

    with EngineProxy(engine_url, lab.directory, take) as proxied:
        result = lab.drkit("restore", "latest", "--image", reference, env=proxied.env)
    assert result.code == 1, result
    assert "this tag is another image's here" in result.stderr
    assert ids(lab) == before
    assert image_id(lab, reference) == image_id(lab, other)


def test_an_image_that_was_there_before_outlives_a_restore_that_fails(lab: Lab, engine_url: str) -> None:
    reference = lab.image("app", {"file": b"app"})
    whole = image_id(lab, reference)
    lab.init(images=[reference])
    lab.backup()
    lab.api.tag(whole, f"{lab.name}-kept", "1")
    lab.images_made.append(f"{lab.name}-kept:1")
    lab.api.remove_image(reference)

    def refuse(request: Request) -> Answer | None:
        return Answer(500, b'{"message": "no"}') if request.path.endswith("tag=1") else None

    with EngineProxy(engine_url, lab.directory, refuse) as proxied:
        assert lab.drkit("restore", "latest", "--image", reference, env=proxied.env).code == 1
    assert tags(lab).get(reference) is None
    assert image_id(lab, f"{lab.name}-kept:1") == whole
    with pytest.raises(docker.errors.NotFound):
        lab.api.inspect_image(reference)
