"""The container images that nodes run, built from our own Dockerfiles, without a registry.

mmdebstrap makes a Debian base, buildah builds on it, and one containerd store gets the images
imported. The store is content-addressed in the cache; `clone_store` gives each node its own copy
by hard links, so the six gigabytes of the trainer's dependencies are unpacked once for a lock file
and not once for a node or a run. A change of code imports only the layers that changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.cache import cache_directory, lock_cache

REGISTRY = "llmtrain.dev"
BASE_IMAGE = f"{REGISTRY}/base:test"
SANDBOX_IMAGE = f"{REGISTRY}/pause:test"
DEBIAN_RELEASE = "bookworm"
BASE_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
# As in the official Python image: `python` exists, and pip may install beside Debian's packages.
BASE_HOOKS = (
    'ln -s python3 "$1/usr/bin/python"',
    'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
)
# Measured with the trainer's dependencies: buildah's layer, the blob and the unpacked snapshot,
# and what the build downloads.
NEEDED_GIB = 30
BLOBS = "io.containerd.content.v1.content/blobs/sha256"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """An image to build: its name, its Dockerfile, and the folder that COPY reads from."""

    name: str
    dockerfile: Path
    context: Path

    @property
    def reference(self) -> str:
        """What a pod's ``image`` says."""
        return f"{REGISTRY}/{self.name}:test"


def list_project_images(repository: Path) -> list[ImageSource]:
    """The images of this project: the operator's and the trainer's."""
    return [
        ImageSource(name=name, dockerfile=repository / folder / "Dockerfile", context=repository)
        for name, folder in (("operator", "operator"), ("trainer", "trainer_image"))
    ]


def ensure_store(sources: Sequence[ImageSource]) -> Path:
    """A containerd store that holds ``sources``, freshly built, and the sandbox image.

    Raises:
        RuntimeError: a build or the import failed, or the disk is too full.
    """
    with lock_cache("images"):
        built, dependencies = _images_directory() / "dependencies", _digest_dependencies(sources)
        if not built.exists() or built.read_text() != dependencies:
            _make_room()
        _ensure_base()
        manifests = {SANDBOX_IMAGE: _build_sandbox_image()}
        for source in sources:
            started = time.monotonic()
            manifests[source.reference] = _build(source)
            _report(f"built {source.reference}", started)
        key = hashlib.sha256(json.dumps(manifests, sort_keys=True).encode()).hexdigest()[:16]
        store = _images_directory() / "stores" / key
        if not store.exists():
            started = time.monotonic()
            _make_store(store, manifests)
            _report(f"imported {', '.join(sorted(manifests))}", started)
        os.utime(store)
        built.write_text(dependencies)
        return store


def clone_store(store: Path, target: Path) -> None:
    """Copy a containerd store by hard links; only its databases are copied as such.

    Blobs and unpacked layers are never written again, so all clones share them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _run("cp", "--archive", "--link", str(store), str(target))
    for database in target.glob("*/*.db"):
        fresh = database.with_suffix(".new")
        shutil.copy(database, fresh)
        fresh.replace(database)


def _images_directory() -> Path:
    directory = cache_directory() / "images"
    directory.mkdir(exist_ok=True)
    return directory


def _digest_dependencies(sources: Sequence[ImageSource]) -> str:
    """Return a digest of what the large layers of the images are made of."""
    digest = hashlib.sha256()
    for path in sorted({path for s in sources for path in (s.dockerfile, s.context / "uv.lock")}):
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def _make_room() -> None:
    """Where the disk is short, drop what builds with other dependencies left.

    Raises:
        RuntimeError: the disk is too full all the same.
    """
    directory = _images_directory()
    if _count_free_gib() < NEEDED_GIB:
        for name in ("buildah", "oci", "stores", "stores-partial"):
            shutil.rmtree(directory / name, ignore_errors=True)
    if (free_gib := _count_free_gib()) < NEEDED_GIB:
        raise RuntimeError(
            f"images need about {NEEDED_GIB} GiB of disk at {cache_directory()} and "
            f"{free_gib:.0f} GiB are free: make room, or point LLMTRAIN_CACHE at another disk"
        )


def _count_free_gib() -> float:
    return shutil.disk_usage(cache_directory()).free / 2**30


def _buildah(*arguments: str) -> str:
    directory = _images_directory()
    policy = directory / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    command, *rest = arguments
    state, temporary = directory / "buildah-run", directory / "tmp"
    for folder in (state, temporary):
        folder.mkdir(exist_ok=True)
    # In a mount namespace of its own, so that no mount stays, however it ends. The cache mounts
    # of Dockerfiles, which keep what a build downloads, lie where TMPDIR says.
    private = f'mount -t tmpfs tmpfs {shlex.quote(str(state))} && exec "$0" "$@"'
    return _run(
        *("env", f"TMPDIR={temporary}"),
        *("unshare", "--mount", "--propagation=slave", "sh", "-c", private),
        "buildah",
        f"--root={directory / 'buildah'}",
        f"--runroot={state}",
        "--storage-driver=overlay",
        command,
        *([f"--signature-policy={policy}"] if command in {"build", "push"} else []),
        *rest,
    )


def _ensure_base() -> None:
    recipe = json.dumps([DEBIAN_RELEASE, BASE_PACKAGES, BASE_HOOKS])
    label = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    if label in _buildah("images", "--format={{.Tag}}"):
        return
    started = time.monotonic()
    folder = _images_directory() / "base"
    folder.mkdir(exist_ok=True)
    _run(
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(BASE_PACKAGES)}",
        *(f"--customize-hook={hook}" for hook in BASE_HOOKS),
        DEBIAN_RELEASE,
        str(folder / "rootfs.tar"),
    )
    (folder / "Dockerfile").write_text(
        "FROM scratch\nADD rootfs.tar /\nENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\n"
    )
    _buildah(
        "build", f"--tag={BASE_IMAGE}", f"--tag={REGISTRY}/base:{label}", str(folder)
    )  # fmt: skip
    (folder / "rootfs.tar").unlink()
    _report(f"made {BASE_IMAGE}", started)


def _build_sandbox_image() -> str:
    folder = _images_directory() / "pause"
    folder.mkdir(exist_ok=True)
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text(f'FROM {BASE_IMAGE}\nCMD ["sleep", "infinity"]\n')
    return _build(ImageSource(name="pause", dockerfile=dockerfile, context=folder))


def _build(source: ImageSource) -> str:
    """Build ``source`` and write it to the OCI layout; returns its manifest's digest."""
    # The build downloads as this machine does, through whatever authority the machine trusts.
    trust = [f"--volume={CERTIFICATES}:{CERTIFICATES}:ro"] if CERTIFICATES.exists() else []
    built = _buildah(
        "build",
        "--isolation=chroot",
        "--network=host",
        "--layers",
        "--pull-never",
        "--timestamp=0",
        f"--build-arg=BASE={BASE_IMAGE}",
        f"--tag={source.reference}",
        f"--file={source.dockerfile}",
        *trust,
        str(source.context),
    )
    image_id = built.split()[-1]
    layout = _images_directory() / "oci"
    if _find_pushed(layout, image_id) is None:
        _buildah("push", image_id, f"oci:{layout}:{image_id}")
    pushed = _find_pushed(layout, image_id)
    assert pushed is not None, f"buildah left no manifest of {source.reference}"
    return _restore_layers(layout / "blobs" / "sha256", pushed)


def _find_pushed(layout: Path, image_id: str) -> str | None:
    """The digest of the manifest that an image was pushed as; None where it was not pushed."""
    index = layout / "index.json"
    manifests = json.loads(index.read_text())["manifests"] if index.exists() else []
    for manifest in manifests:
        if manifest["annotations"]["org.opencontainers.image.ref.name"] == image_id:
            return str(manifest["digest"])
    return None


def _restore_layers(blobs: Path, pushed: str) -> str:
    """Make a pushed manifest name compressed layers only; returns its final digest.

    buildah compresses every layer anew for each push (a minute for the dependencies), except one
    whose uncompressed digest it finds in the layout. So after a layer's first push we leave a
    stand-in under that digest, which holds the compressed layer's descriptor, and put the
    descriptor into every later manifest that names the stand-in.
    """
    manifest = json.loads((blobs / _hex(pushed)).read_text())
    configuration = json.loads((blobs / _hex(manifest["config"]["digest"])).read_text())
    layers = []
    for layer, uncompressed in zip(
        manifest["layers"], configuration["rootfs"]["diff_ids"], strict=True
    ):
        stand_in = blobs / _hex(uncompressed)
        if layer["digest"] != uncompressed:
            stand_in.write_text(json.dumps(layer))
        layers.append(json.loads(stand_in.read_text()))
    content = json.dumps(manifest | {"layers": layers}).encode()
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return f"sha256:{digest}"


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _make_store(store: Path, manifests: dict[str, str]) -> None:
    """Import images into a copy of the newest store, so that only what is new is unpacked."""
    store.parent.mkdir(exist_ok=True)
    earlier = sorted(store.parent.iterdir(), key=lambda path: path.stat().st_mtime)
    partial = store.parent.with_name("stores-partial")
    shutil.rmtree(partial, ignore_errors=True)
    if earlier:
        clone_store(earlier[-1], partial)
    else:
        partial.mkdir()
    archive = _images_directory() / "import.tar"
    _write_import_archive(archive, manifests, known=partial / BLOBS)
    _import_archive(archive, partial)
    archive.unlink()
    _share_blobs(partial / BLOBS)
    partial.rename(store)
    for stale in earlier:
        shutil.rmtree(stale)


def _write_import_archive(archive: Path, manifests: dict[str, str], *, known: Path) -> None:
    """An OCI archive of ``manifests`` without the blobs that the folder ``known`` has."""
    blobs = _images_directory() / "oci" / "blobs" / "sha256"
    entries: list[dict[str, Any]] = []
    wanted: set[str] = set()
    for reference, digest in manifests.items():
        path = blobs / _hex(digest)
        manifest = json.loads(path.read_text())
        parts = [manifest["config"], *manifest["layers"]]
        wanted |= {digest} | {part["digest"] for part in parts}
        entries.append(
            {
                "mediaType": manifest["mediaType"],
                "digest": digest,
                "size": path.stat().st_size,
                "annotations": {"io.containerd.image.name": reference},
            }
        )
    with tarfile.open(archive, "w") as tar:
        _add_text(tar, "oci-layout", {"imageLayoutVersion": "1.0.0"})
        _add_text(tar, "index.json", {"schemaVersion": 2, "manifests": entries})
        for name in sorted(_hex(digest) for digest in wanted):
            if not (known / name).exists():
                tar.add(blobs / name, f"blobs/sha256/{name}")


def _add_text(tar: tarfile.TarFile, name: str, document: dict[str, Any]) -> None:
    content = json.dumps(document).encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _import_archive(archive: Path, store: Path) -> None:
    """Run a containerd on ``store`` just long enough to import ``archive``."""
    configuration = _images_directory() / "import.toml"
    configuration.write_text(
        f"""version = 2
root = "{store}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.internal.v1.opt"]
path = "{_images_directory() / "opt"}"
"""
    )
    script = f"""
mount -t tmpfs tmpfs /run
containerd --config {configuration} > {_images_directory() / "import.log"} 2>&1 &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done
ctr --namespace k8s.io images import --digests {archive}
kill %1
wait  # for all: a job that has ended already is none that could be named
"""
    _run(
        "unshare", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child",
        "--mount-proc", "bash", "-e", "-m", "-c", script,
    )  # fmt: skip


def _share_blobs(stored: Path) -> None:
    """Let the OCI layout's blobs be the same files as the store's, which halves their disk."""
    for blob in list((_images_directory() / "oci" / "blobs" / "sha256").iterdir()):
        twin = stored / blob.name
        if twin.exists() and not twin.samefile(blob):
            fresh = blob.with_suffix(".new")
            os.link(twin, fresh)
            fresh.replace(blob)


def _report(what: str, started: float) -> None:
    sys.stderr.write(f"test bed: {what} in {time.monotonic() - started:.0f} s\n")


def _run(*command: str) -> str:
    run = subprocess.run(command, text=True, capture_output=True)
    if run.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)} failed:\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
        )
    return run.stdout
