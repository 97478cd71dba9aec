"""Zip archives from strangers: read as streams, and refused with a remedy where one doesn't trust them."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from robustidps.errors import DatasetError
from robustidps.traffic import loaders
from robustidps.traffic.loaders import archive, base

SPEC = loaders.TableSpec(
    name="toy", features=({"name": "bytes", "kind": "count"},), classes=("Benign", "Attack"), label="label"
)
TEXT = "bytes,label\n" + "".join(f"{i},benign\n{i},attack\n" for i in range(500))


def packed(path: Path, *members: tuple[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def read(path: Path) -> loaders.TrafficSet:
    return loaders.load("table", path, schema=SPEC)


def test_a_file_in_an_archive_is_read_like_any_other(tmp_path):
    plain = tmp_path / "flows.csv"
    plain.write_text(TEXT)
    alone = packed(tmp_path / "flows.zip", ("folder/", ""), ("folder/flows.csv", TEXT), ("__MACOSX/._flows.csv", "x"))
    assert read(alone).digest == read(plain).digest
    assert read(packed(tmp_path / "dot.zip", ("./flows.csv", TEXT)) / "flows.csv").digest == read(plain).digest
    two = packed(tmp_path / "two.zip", ("a.csv", TEXT), ("b.csv", "bytes,label\n1,attack\n"))
    assert len(read(two / "b.csv")) == 1
    assert base.data_files(two) == [two / "a.csv", two / "b.csv"]
    with pytest.raises(DatasetError, match=r"holds 2 files \(name one of them: two\.zip/a\.csv"):
        read(two)
    with pytest.raises(DatasetError, match=r"holds no file 'c\.csv'"):
        read(two / "c.csv")
    with pytest.raises(DatasetError, match=r"is no zip archive"):
        read(plain / "c.csv")


def test_nothing_is_unpacked_to_disk(tmp_path):
    read(packed(tmp_path / "flows.zip", ("flows.csv", TEXT)))
    assert [p.name for p in tmp_path.iterdir()] == ["flows.zip"]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_a_half_downloaded_archive_is_said_to_be_one(tmp_path, share):
    whole = packed(tmp_path / "flows.zip", ("flows.csv", TEXT)).read_bytes()
    (tmp_path / "flows.zip").write_bytes(whole[: int(len(whole) * share) + 4])
    for look in (read, loaders.identify):
        with pytest.raises(DatasetError, match=r"without its end.*interrupted download"):
            look(tmp_path / "flows.zip")


def test_a_flipped_bit_in_an_archive_is_noticed(tmp_path):
    path = packed(tmp_path / "flows.zip", ("flows.csv", TEXT), method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[len(TEXT) // 2] ^= 2
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"CRC-32|is no known label|not a number|fields"):
        read(path)


@pytest.mark.parametrize("name", ["../flows.csv", "/etc/flows.csv", "a/../../flows.csv", "C:flows.csv"])
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path, name):
    with pytest.raises(DatasetError, match=r"leads out of the archive"):
        read(packed(tmp_path / "flows.zip", (name, TEXT)))


def test_an_archive_within_an_archive_is_refused(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("flows.csv", TEXT)
    import gzip

    for content in (inner.getvalue(), gzip.compress(TEXT.encode()), b"7z\xbc\xaf\x27\x1c rest"):
        with pytest.raises(DatasetError, match=r"is an archive too.*unpack the outer one"):
            read(packed(tmp_path / "flows.zip", ("flows.csv", content)))
    with pytest.raises(DatasetError, match=r"Parquet within an archive"):
        read(packed(tmp_path / "flows.zip", ("flows.csv", b"PAR1 and more")))


def test_an_encrypted_file_is_refused_with_a_way_out(tmp_path):
    path = packed(tmp_path / "flows.zip", ("flows.csv", TEXT))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the table of contents
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"is encrypted.*with its password"):
        read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_there_twice_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"stands in it twice"):
        read(packed(tmp_path / "flows.zip", ("flows.csv", TEXT), ("flows.csv", "bytes,label\n")))


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MEMBERS", 20)
    with pytest.raises(DatasetError, match=r"holds 21 entries, more than 20"):
        read(packed(tmp_path / "flows.zip", *((f"{i}.csv", "") for i in range(21))))


def test_a_table_of_contents_without_end_is_never_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "DIRECTORY", 70_000)  # the search for the end takes 65,557 bytes
    path = packed(tmp_path / "flows.zip", *((f"{i}{'x' * 200}.csv", "") for i in range(500)))
    with pytest.raises(DatasetError, match=r"table of contents of more than 70000 bytes"):
        read(path)


def test_what_unpacks_to_far_more_than_it_is_is_stopped(tmp_path, monkeypatch):
    import gzip

    monkeypatch.setattr(archive, "FREE", 100_000)
    bomb = "bytes,label\n" + "1,benign\n" * 2_000_000
    for path in (packed(tmp_path / "a.zip", ("flows.csv", bomb)), tmp_path / "b.csv.gz"):
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(bomb.encode()))
        with pytest.raises(DatasetError, match=r"unpacks to more than .* bytes.*a bomb looks so"):
            read(path)


def test_a_size_that_is_a_lie_changes_nothing(tmp_path, monkeypatch):
    """The ceiling counts what comes out, not what the archive says will."""
    monkeypatch.setattr(archive, "FREE", 50_000)
    path = packed(tmp_path / "flows.zip", ("flows.csv", "bytes,label\n" + "1,benign\n" * 500_000))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(content)
    with pytest.raises(DatasetError):
        read(path)


@pytest.mark.parametrize(
    "start", [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a", b"BZh91AY", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"]
)
def test_other_archives_are_named_and_refused(tmp_path, start):
    (tmp_path / "flows.csv").write_bytes(start + bytes(100))
    with pytest.raises(DatasetError, match=r"is a \w+ archive \(unpack it"):
        read(tmp_path / "flows.csv")


def test_an_empty_archive_holds_nothing(tmp_path):
    with pytest.raises(DatasetError, match=r"holds 0 files"):
        read(packed(tmp_path / "flows.zip"))
