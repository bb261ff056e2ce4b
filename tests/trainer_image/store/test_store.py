"""The contract of a store, held by a folder and by a real MinIO alike."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.store import ObjectExistsError, ObjectMissingError, Store, open_store
from llmtrain_trainer.store.folder import FolderStore
from llmtrain_trainer.store.probe import probe_conditional_create

LARGE_BYTES = 65 * 1024 * 1024
"""More than one part of a multipart upload."""

OpenStore = Callable[[str], Store]


@pytest.fixture(params=["folder", "minio"])
def open_at(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens stores of one fresh bucket, by prefix."""
    bucket = f"bucket-{secrets.token_hex(4)}"
    if request.param == "folder":
        config = StorageConfig(uri=f"s3://{bucket}", local_root=str(tmp_path / "root"))
    else:
        minio = request.getfixturevalue("minio")
        minio.create_bucket(bucket)
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        (credentials / "accessKey").write_text(minio.access_key)
        (credentials / "secretKey").write_text(f"{minio.secret_key}\n")
        config = StorageConfig(
            uri=f"s3://{bucket}",
            endpoint=minio.endpoint,
            credentials_directory=str(credentials),
        )
    return lambda prefix: open_store(f"s3://{bucket}/{prefix}".rstrip("/"), config)


@pytest.fixture
def begin_upload(open_at: OpenStore, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Begins to upload an object, and gets no further."""
    root = open_at("")
    if isinstance(root, FolderStore):
        return lambda key: root.write_bytes(f"{key.rpartition('/')[0]}/.partial-{key[-1]}", b"x")
    bucket = root.uri.removeprefix("s3://")
    client = request.getfixturevalue("minio").connect()
    return lambda key: client._create_multipart_upload(bucket, key, {})


@pytest.fixture
def store(open_at: OpenStore) -> Store:
    return open_at("some/prefix")


def test_written_objects_are_read_back(store: Store) -> None:
    store.check()
    store.write_bytes("a/b", b"0123456789")
    assert store.read_bytes("a/b") == b"0123456789"
    assert store.read_bytes("a/b", start=3, length=4) == b"3456"
    assert store.read_bytes("a/b", start=7) == b"789"
    assert store.read_bytes("a/b", length=0) == b""
    store.write_bytes("a/b", b"")
    assert store.read_bytes("a/b") == b""


def test_listing_takes_prefixes_as_text_and_keys_in_order(store: Store, open_at: OpenStore) -> None:
    for key in ("b/2", "a-x", "a/z", "a/ä b+c.txt", "b/10", "b/1/deep"):
        store.write_bytes(key, b"x" * len(key))
    open_at("some/prefix-of-another").write_bytes("a", b"")
    open_at("some").write_bytes("other", b"")
    listed = list(store.list_objects())
    keys = [item.key for item in listed]
    assert keys == ["a-x", "a/z", "a/ä b+c.txt", "b/1/deep", "b/10", "b/2"]
    assert [item.size for item in listed] == [len(key) for key in keys]
    assert [item.key for item in store.list_objects("b/1")] == ["b/1/deep", "b/10"]
    assert [item.key for item in store.list_objects("b/")] == ["b/1/deep", "b/10", "b/2"]
    assert list(store.list_objects("none/")) == []
    assert "some/prefix/b/10" in [item.key for item in open_at("").list_objects("some")]


def test_etag_changes_with_content(store: Store) -> None:
    store.write_bytes("key", b"one")
    first = store.find_object("key")
    assert first is not None
    assert list(store.list_objects()) == [first]
    store.write_bytes("key", b"two")
    second = store.find_object("key")
    assert second is not None
    assert (second.key, second.size) == ("key", 3)
    assert second.etag != first.etag


def test_missing_objects_are_named(store: Store, tmp_path: Path) -> None:
    assert store.find_object("none") is None
    for read in (
        lambda: store.read_bytes("none"),
        lambda: store.download("none", tmp_path / "copy"),
    ):
        with pytest.raises(ObjectMissingError, match=r"s3://bucket-.*/some/prefix/none") as failed:
            read()
        assert failed.value.reason == "ObjectMissing"
    assert not (tmp_path / "copy").exists()


def test_create_refuses_what_exists(store: Store) -> None:
    store.create_bytes("manifest.json", b"first")
    with pytest.raises(ObjectExistsError, match=r"some/prefix/manifest\.json"):
        store.create_bytes("manifest.json", b"second")
    assert store.read_bytes("manifest.json") == b"first"


def test_of_many_creates_at_once_one_succeeds(store: Store) -> None:
    num_writers = 8
    start = threading.Barrier(num_writers)
    outcomes: list[bytes | None] = []

    def create(data: bytes) -> None:
        start.wait()
        try:
            store.create_bytes("lock", data)
            outcomes.append(data)
        except ObjectExistsError:
            outcomes.append(None)

    writers = [threading.Thread(target=create, args=(b"%d" % i,)) for i in range(num_writers)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(outcomes) == num_writers
    (winner,) = [outcome for outcome in outcomes if outcome is not None]
    assert store.read_bytes("lock") == winner


def test_probe_finds_creates_safe_and_leaves_nothing(store: Store) -> None:
    assert probe_conditional_create(store) is True
    assert list(store.list_objects()) == []


def test_large_files_survive_both_ways(store: Store, tmp_path: Path) -> None:
    data = secrets.token_bytes(1024 * 1024) * (LARGE_BYTES // (1024 * 1024))
    (tmp_path / "original").write_bytes(data)
    store.upload("large", tmp_path / "original")
    store.download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    found = store.find_object("large")
    assert found is not None
    assert found.size == LARGE_BYTES
    assert [path.name for path in tmp_path.glob("*partial*")] == []


def test_nothing_is_left_of_unfinished_uploads_but_other_s(
    open_at: OpenStore, begin_upload: Callable[[str], None]
) -> None:
    """What a killed uploader leaves, as the store itself shows it to nobody."""
    store = open_at("some/prefix")
    store.write_bytes("a/whole", b"data")
    for key in ("a/one", "a/two", "b/other"):
        begin_upload(f"some/prefix/{key}")
    assert [item.key for item in store.list_objects()] == ["a/whole"]
    assert store.abort_uploads("a/") == 2
    assert store.abort_uploads("a/") == 0
    assert store.abort_uploads() == 1
    assert store.read_bytes("a/whole") == b"data"


def test_delete_can_be_repeated(store: Store) -> None:
    store.write_bytes("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    assert list(store.list_objects()) == []
