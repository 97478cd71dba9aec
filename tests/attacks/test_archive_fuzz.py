"""Damage at random to an archive: it is refused with a BundleError, and nothing is written beside its folder."""

from __future__ import annotations

import io
import shutil
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustidps.bundle.files import read_folder
from robustidps.errors import BundleError
from robustidps.testing.forge import files_of, raw_archive
from robustidps.updates.archive import pack, unpack
from tests.attacks.test_bundle_fuzz import damage

relaxed = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def archive(original, tmp_path_factory) -> bytes:
    target = tmp_path_factory.mktemp("packed") / "bundle.tar"
    pack(original.path, target)
    return target.read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


def unpacked(place, data: bytes) -> dict[str, bytes] | None:
    """What comes out, None for a refusal; whatever else happens is a failure of the test."""
    shutil.rmtree(place / "out", ignore_errors=True)
    (place / "a.tar").write_bytes(data)
    try:
        unpack(place / "a.tar", place / "out")
    except BundleError as error:
        assert str(error).isprintable() and not (place / "out").exists()
        return None
    finally:
        assert {p.name for p in place.iterdir()} <= {"a.tar", "out"}
    try:
        read_folder(place / "out")
    except BundleError as error:
        assert str(error).isprintable()
    return files_of(place / "out")


@settings(relaxed, max_examples=300)
@given(change=damage())
def test_a_damaged_archive_is_refused_or_holds_plain_files(archive, original, place, change):
    data = change(archive)
    out = unpacked(place, data)
    if out is not None:
        assert raw_archive(out) == data  # what unpacks is exactly what those files pack to
        assert set(out) == set(files_of(original.path))


@settings(relaxed, max_examples=200)
@given(at=st.integers(0, 511), bits=st.integers(1, 255), which=st.integers(0, 5))
def test_a_header_with_one_byte_changed_is_refused(archive, place, at, bits, which):
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        starts = [member.offset for member in members]
    data = bytearray(archive)
    data[starts[which] + at] ^= bits
    assert unpacked(place, bytes(data)) is None


@settings(relaxed, max_examples=200)
@given(data=st.binary(max_size=3000))
def test_noise_is_refused(place, data):
    assert unpacked(place, data) is None


NAMES = st.one_of(
    st.sampled_from(["model.onnx", "golden.npz", "metadata.json", "native/a.json", "..", "a/b", "/x", "native"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30),
)
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@settings(relaxed, max_examples=300)
@given(
    entries=st.lists(st.tuples(NAMES, st.sampled_from("01234567xgSLK"), st.binary(max_size=600)), max_size=5),
    form=FORMATS,
)
def test_any_archive_that_pythons_tarfile_writes(place, entries, form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, kind, data in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname, entry.mtime = kind.encode(), len(data), "metadata.json", 0
            try:
                archive.addfile(entry, io.BytesIO(data))
            except ValueError:  # a name that this format can't hold
                continue
    unpacked(place, buffer.getvalue())
