"""With a real engine: no secret of a volume, an image or the policy is in what the meta key opens; all come back."""

from __future__ import annotations

import io
import json
import os
import random
import string
import tarfile
from pathlib import Path
from typing import Any

from drkit.repository.format.packs import DATA_MAGIC
from drkit.storage import open_storage
from tests.support.lab import Lab, Volume
from tests.support.leaks import leaks, leaks_in_files
from tests.support.meta_view import MetaView


class Canaries:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.secrets: dict[str, bytes] = {}

    def __call__(self, name: str) -> str:
        text = "canary" + "".join(self._rng.choices(string.ascii_letters, k=24))
        self.secrets[name] = text.encode()
        return text


def planted(lab: Lab, canary: Canaries) -> tuple[Volume, str, str, str]:
    """A plain volume, a bound one, one that cannot be mounted, and an image."""
    labels = {"com.docker.compose.config-hash": canary("label")}
    plain = lab.volume("plain", {"file": canary("content").encode()}, labels=labels)
    os.setxattr(plain.files / "file", "user.secret", canary("xattr").encode())
    device = lab.directory / canary("device")
    device.mkdir()
    (device / "bound").write_text(canary("bound content"))
    options = {"type": "none", "o": "bind", "device": str(device)}
    bound = lab.forget_later(f"{lab.name}-bound")
    lab.api.create_volume(bound, driver_opts=options)
    broken = lab.forget_later(f"{lab.name}-broken")
    options = {
        "type": "nfs",
        "o": f"addr=127.0.0.1,password={canary('mount option')}",
        "device": f":/{canary('share')}",
    }
    lab.api.create_volume(broken, driver_opts=options)
    image = f"{lab.name}-app:1"
    changes = [
        f"ENV SECRET={canary('environment')}",
        f"LABEL build={canary('image label')}",
        f"CMD {canary('command')}",
    ]
    repository, _, tag = image.rpartition(":")
    lab.api.import_image_from_data(an_archive(canary("image content")), repository=repository, tag=tag, changes=changes)
    lab.images_made.append(image)
    return plain, bound, broken, image


def an_archive(content: str) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("etc-secret")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content.encode()))
    return archive.getvalue()


def document(lab: Lab, target: str, name: str, env: dict[str, str]) -> bytes:
    out = lab.directory / "documents.tar"
    out.unlink(missing_ok=True)
    done = lab.drkit("export", "latest", "--target", f"documents:of {target}", "-o", out, env=env)
    assert done.code == 0, done
    with tarfile.open(out) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def test_the_meta_key_opens_no_secret_and_the_identity_all(lab: Lab, rng: random.Random) -> None:
    canary = Canaries(rng)
    plain, bound, broken, image = planted(lab, canary)
    lab.init(plain, bound, broken, images=[image])
    key = lab.directory / "meta.key"
    lab.json("key", "host-key", key)
    policy = json.loads(lab.policy.read_text())
    del policy["repository"]["identity_file"]
    policy["repository"]["meta_key_file"] = str(key)
    policy["retention"] = {"keep_last": 3}
    lab.policy.write_text(f"# {canary('policy comment')}\n{json.dumps(policy)}\n")
    text = lab.policy.read_text()

    first = lab.json("backup", code=3)
    data_keys = {path.parent for path in lab.objects("keys/") if len(path.parent.name) == 32}
    data_packs = {path for path in lab.objects("packs/") if path.read_bytes().startswith(DATA_MAGIC)}
    second = lab.json("backup", code=3)

    assert [target["status"] for target in first["targets"]] == ["ok", "ok", "failed", "ok"]
    assert first["targets"][2]["error"]
    nothing_shows(lab, canary, key)
    # What did not change is not stored again, so not even a key is made: the volumes are too young to tell.
    assert [target["bytes_stored"] for target in second["targets"] if target["name"] == image] == [0]
    assert {path for path in lab.objects("packs/") if path.read_bytes().startswith(DATA_MAGIC)} == data_packs
    assert {path.parent for path in lab.objects("keys/") if len(path.parent.name) == 32} == data_keys
    all_comes_back(lab, canary, plain, bound, image, text)


def nothing_shows(lab: Lab, canary: Canaries, key: Path) -> None:
    view = MetaView(open_storage(str(lab.repository)), key.read_text())
    assert set(view.kinds) >= {"index", "snapshots", "labels", "pack directory", "tree chunk"}
    assert f"{lab.name}-broken".encode() in b"".join(view.texts.values()), "nothing was opened"
    found = {f"{where}: {name}" for where, text in view.texts.items() for name in leaks(text, canary.secrets)}
    found |= leaks_in_files(lab.repository, canary.secrets)
    found |= leaks_in_files(lab.state, canary.secrets)
    assert found == set()
    assert list(lab.state.rglob("documents.key"))


def all_comes_back(lab: Lab, canary: Canaries, plain: Volume, bound: str, image: str, policy: str) -> None:
    env = {"DRKIT_IDENTITY_FILE": str(lab.identity)}
    secrets = {name: secret.decode() for name, secret in canary.secrets.items()}
    shown = lab.run("policy", "show", "--policy", lab.policy, env=env)
    assert shown.stdout == policy
    assert lab.run("policy", "show", "--policy", lab.policy).code == 12
    new = lab.forget_later(f"{lab.name}-restored")
    lab.remove(plain)
    for name, arguments in ((plain.name, []), (new, ["--to-volume", new])):
        done = lab.drkit("restore", "latest", "--volume", plain.name, *arguments, "--json", env=env)
        assert done.code == 0, done
        about = lab.api.inspect_volume(name)
        assert about["Labels"]["com.docker.compose.config-hash"] == secrets["label"]
        assert (lab.find(name).files / "file").read_text() == secrets["content"]
        assert os.getxattr(lab.find(name).files / "file", "user.secret").decode() == secrets["xattr"]
    plan: dict[str, Any] = json.loads(
        lab.drkit(
            "restore",
            "latest",
            "--volume",
            bound,
            "--to-volume",
            f"{new}-2",
            "--same-device",
            "--dry-run",
            "--json",
            env=env,
        ).stdout
    )
    assert plan["options"]["device"].endswith(secrets["device"])
    assert json.loads(document(lab, f"volume {bound}", "volume.json", env))["Options"] == plan["options"]
    lab.api.remove_image(image)
    done = lab.drkit("restore", "latest", "--image", image, env=env)
    assert done.code == 0, done
    config = lab.api.inspect_image(image)["Config"]
    assert f"SECRET={secrets['environment']}" in config["Env"]
    assert config["Labels"]["build"] == secrets["image label"]
    assert secrets["command"] in " ".join(config["Cmd"])
    described = json.loads(document(lab, f"image {image}", "image.json", env))
    assert {"GraphDriver", "Metadata", "RepoTags"}.isdisjoint(described)
