"""The archive that a bundle travels in."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from robustidps.bundle import open_bundle
from robustidps.bundle.files import limit_of
from robustidps.errors import BundleError, NotFoundError, StorageError
from robustidps.testing.forge import files_of, raw_archive
from robustidps.updates import archive as archive_module
from robustidps.updates.archive import pack, unpack


def test_the_same_bundle_gives_the_same_bytes_wherever_and_whenever(bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "model.onnx", (0, 0))
    (tmp_path / "copy" / "model.onnx").chmod(0o600)
    pack(bundle.path, tmp_path / "a.tar")
    pack(tmp_path / "copy", tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes() == raw_archive(files_of(bundle.path))


def test_what_is_packed_unpacks_to_the_same_bundle(bundle, tmp_path):
    pack(bundle.path, tmp_path / "a.tar")
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(bundle.path)
    open_bundle(tmp_path / "out", expected_digest=bundle.digest).close()


def test_ordinary_tar_reads_it(bundle, tmp_path):
    pack(bundle.path, tmp_path / "a.tar")
    done = subprocess.run(["tar", "tvf", tmp_path / "a.tar"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[-1] for line in lines] == list(files_of(bundle.path))
    assert all(line.startswith("-rw-r--r-- 0/0 ") for line in lines) and not done.stderr


def test_what_is_no_bundle_is_not_packed(bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "copy")
    (tmp_path / "copy" / "MLmodel").write_text("x")
    with pytest.raises(BundleError, match="no such file"):
        pack(tmp_path / "copy", tmp_path / "a.tar")
    with pytest.raises(NotFoundError):
        pack(tmp_path / "nothing", tmp_path / "a.tar")
    with pytest.raises(StorageError):
        pack(bundle.path, tmp_path / "copy" / "MLmodel" / "a.tar")
    assert {p.name for p in tmp_path.iterdir()} == {"copy"}


def test_an_archive_beyond_the_limit_is_neither_written_nor_read(bundle, tmp_path, monkeypatch):
    pack(bundle.path, tmp_path / "a.tar")
    monkeypatch.setattr(archive_module, "MAX_BYTES", 10_000)
    with pytest.raises(BundleError, match="larger than"):
        pack(bundle.path, tmp_path / "b.tar")
    with pytest.raises(BundleError, match="larger than"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_nothing_is_unpacked_over_what_is_there(bundle, tmp_path):
    pack(bundle.path, tmp_path / "a.tar")
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="in the way"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "nothing"])
def test_an_archive_that_is_no_plain_file_is_refused(bundle, tmp_path, kind):
    path = tmp_path / "a.tar"
    if kind == "link":
        pack(bundle.path, tmp_path / "b.tar")
        path.symlink_to(tmp_path / "b.tar")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(BundleError, match="plain file"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_largest_size_of_each_file_is_known_and_others_have_none():
    assert limit_of("model.onnx") == 512 * 2**20 and limit_of("native/model.safetensors") == 2**30
    for name in ("MLmodel", "native", "native/x.pkl", "native/a/b.json", "other/x.json", "native/../x.json", ""):
        assert limit_of(name) is None
