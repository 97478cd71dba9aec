"""Public data sets: what is fetched is what was expected, and what can't be fetched is explained."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from filelock import FileLock
from typer.testing import CliRunner

from robustidps import cli
from robustidps.cli import _app
from robustidps.errors import (
    ConfigError,
    ConflictError,
    DatasetError,
    IntegrityError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from robustidps.settings import CONFIGS
from robustidps.traffic.download import Limits
from robustidps.traffic.fetch import fetch, ways
from robustidps.traffic.loaders.card import default_folder, read_card
from robustidps.traffic.prepare import fingerprint, load_dataset

FAST = Limits(pause_s=0, longest_pause_s=0, tries=2, silence_s=10)
SHIPPED = sorted(path.stem for path in (CONFIGS / "datasets").glob("*.yaml"))


@pytest.fixture
def describe_set(home: Path):
    """Writes a set of one's own, `mine`, into the installation's configuration."""

    def write(**fetch_section: object) -> None:
        words = dict.fromkeys(("title", "card", "source", "licence", "citation"), "mine")
        file = home / "configs" / "datasets" / "mine.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(words | {"fetch": fetch_section, "parts": "of its loader"}))

    return write


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".fetching.lock"}


# --- what is fetched


def test_a_file_with_the_published_digest_is_kept_and_not_fetched_again(source, describe_set, home):
    describe_set(files=[{"url": source.url, "file": "mine.zip", "sha256": source.sha256, "bytes": len(source.content)}])
    found = fetch("mine")
    (file,) = found.files
    assert found.folder == home / "datasets" / "mine" and file.file.read_bytes() == source.content
    assert (file.sha256, file.checked, file.fresh) == (source.sha256, "published by its authors", True)
    (again,) = fetch("mine").files
    assert not again.fresh and again.sha256 == source.sha256 and len(source.asked) == 1


def test_a_wrong_digest_leaves_nothing_and_says_both(source, describe_set, tmp_path):
    describe_set(files=[{"url": source.url, "file": "mine.zip", "sha256": "0" * 64}])
    with pytest.raises(IntegrityError, match=f"expected sha256 {'0' * 64} .*, got {source.sha256}") as error:
        fetch("mine", tmp_path / "to")
    assert left(tmp_path / "to") == set() and "nothing was kept" in str(error.value.remedy)


def test_who_recorded_a_digest_is_said(source, describe_set):
    describe_set(files=[{"url": source.url, "file": "mine.zip", "sha256": source.sha256, "sha256_by": "two readers"}])
    assert fetch("mine").files[0].checked == "recorded by two readers"


def test_without_a_published_digest_the_one_seen_is_kept_and_compared_with(source, describe_set):
    describe_set(files=[{"url": source.url, "file": "mine.zip"}])
    first = fetch("mine")
    assert first.files[0].checked == "not checked against a published digest"
    record = json.loads((first.folder / "fetched.json").read_text())
    assert record["mine.zip"]["sha256"] == source.sha256 and record["mine.zip"]["url"] == source.url

    first.files[0].file.unlink()
    assert "the one seen on" in fetch("mine").files[0].checked

    first.files[0].file.unlink()
    source.content += b"more"
    with pytest.raises(IntegrityError, match=source.sha256) as error:
        fetch("mine")
    assert left(first.folder) == {"fetched.json"} and "remove" in str(error.value.remedy)


def test_a_file_of_another_content_is_neither_taken_nor_touched(source, describe_set, tmp_path):
    there = tmp_path / "mine.zip"
    for section, says in (({"sha256": source.sha256}, "got"), ({"bytes": 7}, "has 5 bytes, expected 7")):
        there.write_bytes(b"other")
        describe_set(files=[{"url": source.url, "file": "mine.zip", **section}])
        with pytest.raises(IntegrityError, match=says):
            fetch("mine", tmp_path)
        assert there.read_bytes() == b"other" and source.asked == []


def test_a_file_that_was_put_there_by_hand_is_taken_if_it_is_the_one(source, describe_set, tmp_path):
    describe_set(files=[{"url": source.url, "file": "mine.zip", "sha256": source.sha256}])
    (tmp_path / "mine.zip").write_bytes(source.content)
    assert not fetch("mine", tmp_path).files[0].fresh and source.asked == []


def test_two_at_once_do_not_meet(source, describe_set, tmp_path):
    describe_set(files=[{"url": source.url, "file": "mine.zip"}])
    with FileLock(tmp_path / ".fetching.lock"), pytest.raises(ConflictError, match="another fetch"):
        fetch("mine", tmp_path)
    fetch("mine", tmp_path)  # and the end of one lets the next begin


def test_the_second_file_s_failure_keeps_the_first(source, describe_set, tmp_path):
    urls = {"one.zip": source.url, "two.zip": source.base + "/two.zip"}
    describe_set(files=[{"url": url, "file": name} for name, url in urls.items()])
    fetched = fetch("mine", tmp_path / "to")
    assert [file.file.name for file in fetched.files] == list(urls)
    (tmp_path / "to" / "two.zip").unlink()
    source.answers = [source.refuse(404)]
    with pytest.raises(UnavailableError, match="answered 404"):
        fetch("mine", tmp_path / "to", limits=FAST)
    assert left(tmp_path / "to") == {"one.zip", "fetched.json"}


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/null", "/dev/null/x"])
def test_a_folder_that_cannot_be_made_is_a_storage_error(source, describe_set, folder):
    describe_set(files=[{"url": source.url, "file": "mine.zip"}])
    with pytest.raises(StorageError):
        fetch("mine", Path(folder))


def test_what_lies_in_the_way_is_named(source, describe_set, tmp_path):
    describe_set(files=[{"url": source.url, "file": "mine.zip"}])
    (tmp_path / "mine.zip").mkdir()
    with pytest.raises(StorageError, match=r"mine\.zip"):
        fetch("mine", tmp_path)
    (tmp_path / "mine.zip").rmdir()
    (tmp_path / "fetched.json").write_text("[1")
    with pytest.raises(IntegrityError, match=r"fetched\.json"):
        fetch("mine", tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        {"url": "ftp://host/x.zip", "file": "x.zip"},
        {"url": "file:///etc/passwd", "file": "x.zip"},
        {"url": "https://user:secret@host/x.zip", "file": "x.zip"},
        {"url": "https://[::1/x.zip", "file": "x.zip"},
        {"url": "https://host/x.zip", "file": "../x.zip"},
        {"url": "https://host/x.zip", "file": ".."},
        {"url": "https://host/x.zip", "file": ".bashrc"},
        {"url": "https://host/x.zip", "file": "x.zip", "sha256": "abc"},
    ],
)
def test_a_section_that_leads_elsewhere_is_refused(describe_set, file):
    describe_set(files=[file])
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        fetch("mine")


# --- what a person does


def test_a_form_in_between_names_the_page_the_steps_and_the_folder(describe_set, tmp_path):
    describe_set(page="https://example.org/form", steps=["fill it in", "take x.zip"])
    with pytest.raises(UnavailableError) as error:
        fetch("mine", tmp_path / "my sets")
    said = str(error.value)
    for words in ("https://example.org/form", "(1) fill it in", "(2) take x.zip", "data describe '"):
        assert words in said
    assert error.value.exit_code == 6 and not (tmp_path / "my sets").exists()


def test_a_page_in_place_of_a_file_leads_to_the_page_that_offers_it(source, describe_set):
    describe_set(files=[{"url": source.url, "file": "mine.zip", "page": "https://example.org/offer"}])
    source.kind = "text/html"
    with pytest.raises(UnavailableError, match=r"a form or a login.*https://example\.org/offer and put it into"):
        fetch("mine")


def test_a_name_nobody_knows_is_answered_with_those_that_are(home):
    for name in ("nope", "../../etc/passwd", "a" * 5000):
        with pytest.raises(NotFoundError, match="nsl_kdd"):
            fetch(name)


# --- what ships

OFFICIAL = {
    "nsl_kdd": {"www.unb.ca"},
    "unsw_nb15": {"research.unsw.edu.au"},
    "cic_ids2017": {"www.unb.ca", "intrusion-detection.distrinet-research.be"},
    "ciciot2023": {"www.unb.ca"},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_set_is_had_from_its_authors_alone(name, home):
    card = read_card(name)
    assert card.fetch and (card.fetch.files or (card.fetch.page and card.fetch.steps))
    urls = [card.source, card.fetch.page, *(url for file in card.fetch.files for url in (file.url, file.page))]
    assert {urlsplit(url).hostname for url in urls if url} == OFFICIAL[name]
    assert all(urlsplit(url).scheme == "https" for url in urls if url)
    assert all(file.sha256 and file.bytes for file in card.fetch.files)


@pytest.mark.parametrize("name", ["nsl-kdd", "unsw-nb15", "ciciot2023"])
def test_every_shipped_set_behind_a_form_says_all_of_it_in_one_message(name, home):
    with pytest.raises(UnavailableError) as error:
        fetch(name)
    folder = default_folder(name.replace("-", "_"))
    assert str(error.value.remedy).endswith(f"data describe {folder}")  # nothing was cut off
    assert not home.exists()


def test_the_list_says_which_is_which(source, describe_set):
    describe_set(files=[{"url": source.url, "file": "mine.zip"}])
    fetch("mine")
    rows = {row["name"]: row for row in ways()}
    assert rows["mine"]["how"] == "download" and rows["mine"]["folder"]
    assert rows["nsl_kdd"]["how"] == "by hand" and rows["nsl_kdd"]["folder"] is None
    assert rows["cic_ids2017"]["how"] == "download, the rest by hand"


def test_the_command_says_what_was_fetched_and_what_comes_next(source, describe_set, home, monkeypatch):
    monkeypatch.setattr(_app, "given", {})
    describe_set(
        files=[{"url": source.url, "file": "mine.zip"}], page="https://example.org/form", steps=["take the rest"]
    )
    training = home / "configs" / "training" / "my-own.yaml"
    training.parent.mkdir()
    training.write_text("{source: loader, loader: mine, split: temporal}")
    words = ["--home", str(home), "data", "fetch", "mine"]
    shown = CliRunner().invoke(cli.app, words)
    assert shown.exit_code == 0, shown.output
    for said in ("mine.zip", source.sha256, "not checked against a published digest", "(1) take the rest"):
        assert said in shown.output
    found = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).stdout)
    assert found["next"] == [f"robustidps train --dataset my-own --data-dir {home / 'datasets' / 'mine'}"]
    assert found["files"][0]["sha256"] == source.sha256 and not found["files"][0]["fresh"]


# --- training finds it


def test_a_set_in_its_folder_needs_no_data_dir(home, tmp_path):
    with pytest.raises(DatasetError, match="data fetch nsl_kdd"):
        load_dataset("nsl-kdd", folder=tmp_path)
    before = fingerprint("nsl-kdd")
    folder = default_folder("nsl_kdd")
    folder.mkdir(parents=True)
    with pytest.raises(DatasetError, match=str(folder)):
        load_dataset("nsl-kdd", folder=tmp_path)
    (folder / "KDDTrain+.txt").write_text("x")
    assert fingerprint("nsl-kdd") == fingerprint("nsl-kdd", data_dir=folder) != before
