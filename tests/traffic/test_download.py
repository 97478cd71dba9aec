"""A download ends with the whole file or with none under its name, whatever the server does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustidps.errors import IntegrityError, StorageError, UnavailableError
from robustidps.traffic.download import Limits, download, shown

FAST = Limits(pause_s=0, longest_pause_s=0, headway=1, silence_s=10)
ONCE = Limits(pause_s=0, longest_pause_s=0, tries=1, silence_s=10)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "got").mkdir()
    return tmp_path / "got" / "data.zip"


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def begin(source, target: Path, have: int = 100_000) -> None:
    """A run that was cut after `have` bytes."""
    source.cut = have
    with pytest.raises(UnavailableError, match="the connection ended after") as error:
        download(source.url, target, limits=ONCE)
    assert (f"{have:,} bytes are kept" in str(error.value.remedy)) == bool(source.etag)
    assert left(target) == ["data.zip.part", "data.zip.part.json"]
    source.cut = None
    source.asked.clear()


# --- whole


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_comes_whole_and_leaves_nothing_beside_it(source, target, chunked):
    source.chunked = chunked
    told = []
    download(source.url, target, progress=lambda stage, done, total=None, unit="", note="": told.append((done, unit)))
    assert target.read_bytes() == source.content and left(target) == ["data.zip"]
    assert told[-1] == (len(source.content), "B")
    (_, headers) = source.asked[0]
    assert not {"cookie", "authorization", "range"} & set(headers)


def test_a_connection_that_is_cut_is_gone_on_with(source, target):
    source.cut = 100_000
    download(source.url, target, limits=FAST)
    assert target.read_bytes() == source.content
    assert [headers.get("range") for _, headers in source.asked] == [
        None, "bytes=100000-", "bytes=200000-", "bytes=300000-"
    ]  # fmt: skip
    assert source.asked[1][1]["if-range"] == '"one"'


def test_a_later_run_goes_on_where_an_earlier_one_ended(source, target):
    begin(source, target)
    download(source.url, target, limits=ONCE)
    assert target.read_bytes() == source.content and left(target) == ["data.zip"]
    assert [headers["range"] for _, headers in source.asked] == ["bytes=100000-"]


def test_a_run_that_was_ended_by_hand_goes_on_too(source, target):
    def cancel(stage, done, total=None, **more):
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(source.url, target, progress=cancel)
    assert not target.exists()
    download(source.url, target, limits=ONCE)
    assert target.read_bytes() == source.content and "range" in source.asked[1][1]


def test_a_part_that_lacks_its_name_alone_is_not_asked_for_again(source, target):
    begin(source, target)
    target.with_name("data.zip.part").write_bytes(source.content)
    download(source.url, target, limits=ONCE)
    assert target.read_bytes() == source.content and source.asked == []


# --- resumed only if it is the same file


def test_a_server_without_ranges_sends_all_of_it_again(source, target):
    begin(source, target)
    source.ranges = False
    download(source.url, target, limits=ONCE)
    assert target.read_bytes() == source.content


def test_without_a_validator_nothing_is_gone_on_with(source, target):
    source.etag = ""
    begin(source, target)
    download(source.url, target, limits=ONCE)
    assert target.read_bytes() == source.content and "range" not in source.asked[0][1]


@pytest.mark.parametrize("if_range", [True, False], ids=["a server that knows If-Range", "one that doesn't"])
def test_a_file_that_changed_is_never_mixed_with_the_old_one(source, target, if_range):
    begin(source, target)
    source.content, source.etag, source.if_range = source.content[:4] + bytes(300_000), '"two"', if_range
    download(source.url, target, limits=FAST)
    assert target.read_bytes() == source.content


def test_a_file_that_shrank_is_fetched_anew(source, target):
    begin(source, target)
    source.content, source.if_range = source.content[:50_000], False  # answers 416
    download(source.url, target, limits=FAST)
    assert target.read_bytes() == source.content and len(source.asked) == 2


def test_another_part_than_was_asked_for_is_not_appended(source, target):
    begin(source, target)
    source.shift = 10
    download(source.url, target, limits=FAST)
    assert target.read_bytes() == source.content


def test_a_part_of_another_address_or_a_damaged_note_begins_anew(source, target):
    note = target.with_name("data.zip.part.json")
    for content in ("{", json.dumps({"url": source.base + "/other.zip", "validator": '"one"', "total": 300_004})):
        begin(source, target)
        note.write_text(content)
        download(source.url, target, limits=ONCE)
        assert target.read_bytes() == source.content and "range" not in source.asked[0][1]
        target.unlink()


# --- bounded


def test_a_wrong_size_is_refused_with_both_numbers(source, target):
    with pytest.raises(UnavailableError, match="has 300,004 bytes, expected 7"):
        download(source.url, target, size=7)
    assert left(target) == []


def test_more_than_the_limit_is_refused_before_it_is_sent(source, target):
    with pytest.raises(UnavailableError, match="announces 300,004 bytes, more than the limit of 1,000"):
        download(source.url, target, limits=Limits(bytes=1000))
    assert left(target) == []


@pytest.mark.parametrize(("size", "limit"), [(200_000, 10**9), (None, 200_000)])
def test_endless_data_is_stopped(source, target, size, limit):
    source.answers = [source.endless(200)]
    with pytest.raises(UnavailableError, match="sends more than 200,000 bytes"):
        download(source.url, target, size=size, limits=Limits(bytes=limit))
    assert left(target) == []


def test_a_body_of_unknown_length_is_refused_unless_its_size_is_known(source, target):
    source.length = False
    with pytest.raises(UnavailableError, match="doesn't say how long"):
        download(source.url, target)
    source.cut = 250_000
    with pytest.raises(UnavailableError, match="ended after 250,000 of 300,004 bytes"):
        download(source.url, target, size=300_004, limits=ONCE)
    source.cut = None
    download(source.url, target, size=300_004, limits=ONCE)
    assert target.read_bytes() == source.content


def test_a_server_that_promises_more_than_it_sends_is_given_up(source, target):
    source.announce = 400_000
    with pytest.raises(UnavailableError, match="in a row") as error:
        download(source.url, target, limits=Limits(pause_s=0, tries=3))
    assert "kept" in str(error.value.remedy) and not target.exists() and len(source.asked) == 3


def test_a_silent_server_is_given_up(source, target):
    source.answers = [source.silent] * 2
    with pytest.raises(UnavailableError, match="nothing came for too long, 2 times in a row"):
        download(source.url, target, limits=Limits(pause_s=0, tries=2, silence_s=0.2))


def test_a_server_that_drips_is_given_up(source, target):
    source.answers = [source.endless(200, b"PK", pause=0.05)] * 2
    with pytest.raises(UnavailableError, match="bytes came in"):
        download(source.url, target, limits=Limits(pause_s=0, tries=2, slow_s=0.2, slow_bytes=1000))


def test_a_full_disk_is_a_storage_error(source, target):
    target.with_name("data.zip.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk is full"):
        download(source.url, target)
    assert not target.exists()


def test_a_file_that_cannot_fit_is_not_begun(source, target):
    source.announce = 2**59
    with pytest.raises(StorageError, match="needs 576,460,752,303,423,488 bytes"):
        download(source.url, target, limits=Limits(bytes=2**60))
    assert left(target) == []


def test_a_folder_that_cannot_be_written_is_a_storage_error(source):
    with pytest.raises(StorageError):
        download(source.url, Path("/sys/data.zip"), limits=ONCE)


# --- answers that are no file


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(source, target):
    source.answers = [source.refuse(503, Retry_After="9999"), source.refuse(429)]
    download(source.url, target, limits=FAST)
    assert target.read_bytes() == source.content and len(source.asked) == 3
    for status in (401, 403, 404, 410):
        source.asked.clear()
        source.answers = [source.refuse(status)]
        with pytest.raises(UnavailableError, match=f"answered {status}"):
            download(source.url, target.with_name("other.zip"), limits=FAST)
        assert len(source.asked) == 1


def test_a_page_in_place_of_an_archive_says_what_to_do(source, target):
    source.content, source.kind = b"\n<!DOCTYPE html><form>Sign in</form>", "text/html; charset=utf-8"
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"web page where data\.zip was expected.*a form.*go to X"):
            download(source.url, target, by_hand="go to X")
        assert left(target) == []
        source.kind = "application/octet-stream"  # and once more, seen by its content


def test_a_login_on_the_way_does_not_cost_what_has_come(source, target):
    begin(source, target)
    source.answers = [source.endless(200, b"<html>", Content_Type="text/html")]
    with pytest.raises(UnavailableError, match="web page"):
        download(source.url, target, limits=ONCE)
    download(source.url, target, limits=ONCE)
    assert target.read_bytes() == source.content and source.asked[-1][1]["range"] == "bytes=100000-"


def test_what_is_called_an_archive_and_is_none_is_refused(source, target):
    source.content = b"moved"
    with pytest.raises(UnavailableError, match="no zip archive"):
        download(source.url, target)
    assert left(target) == []


def test_a_file_that_the_check_refuses_is_removed(source, target):
    def check(part: Path) -> None:
        assert part.read_bytes() == source.content
        raise IntegrityError("isn't the one")

    with pytest.raises(IntegrityError):
        download(source.url, target, check=check)
    assert left(target) == []


# --- where it leads


def test_redirects_are_followed_with_the_range(source, target):
    begin(source, target)
    source.answers = [source.refuse(302, Location="/elsewhere.zip")]
    download(source.url, target, limits=ONCE)
    assert target.read_bytes() == source.content
    assert [(path, headers["range"]) for path, headers in source.asked] == [
        ("/data.zip", "bytes=100000-"), ("/elsewhere.zip", "bytes=100000-")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("/data.zip", "more than 5 times"),
        ("file:///etc/passwd", "or to none"),
        ("ftp://127.0.0.1/data.zip", "another kind"),
        ("http://user:secret@127.0.0.1/data.zip", "user name"),
    ],
)
def test_redirects_in_circles_or_to_elsewhere_are_not_followed(source, target, to, says):
    source.answers = [source.refuse(302, Location=to)] * 20
    with pytest.raises(UnavailableError, match=says) as error:
        download(source.url, target)
    assert left(target) == [] and len(source.asked) < 8 and "secret" not in str(error.value)


def test_a_redirect_with_an_endless_body_is_followed_all_the_same(source, target):
    source.answers = [source.endless(302, Location="/elsewhere.zip")]
    download(source.url, target, limits=ONCE)
    assert target.read_bytes() == source.content


def test_https_is_never_led_back_to_http(source, secure_source, target, monkeypatch):
    secure, certificate = secure_source
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    download(secure.url, target, limits=ONCE)
    assert target.read_bytes() == secure.content
    secure.answers = [secure.refuse(302, Location=source.url)]
    with pytest.raises(UnavailableError, match="from https back to http"):
        download(secure.url, target.with_name("other.zip"), limits=ONCE)
    assert source.asked == []


def test_a_certificate_that_nobody_vouches_for_ends_it(source, secure_source, target):
    with pytest.raises(UnavailableError, match="certificate isn't trusted"):
        download(secure_source[0].url, target, limits=FAST)
    assert secure_source[0].asked == []


def test_the_proxy_of_the_environment_is_used(source, target, monkeypatch):
    monkeypatch.setenv("http_proxy", source.base)
    monkeypatch.setenv("no_proxy", "")
    download("http://data.invalid/data.zip", target, limits=ONCE)
    assert source.asked[0][0] == "http://data.invalid/data.zip" and target.read_bytes() == source.content


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://host.invalid/x", "http://[::1/x", "http://h:p/"])
def test_an_address_where_nobody_answers_is_unavailable(source, target, url):
    with pytest.raises(UnavailableError):
        download(url, target, limits=FAST)
    assert left(target) == []


def test_messages_show_no_credentials():
    assert shown("https://user:secret@host/a/b.zip?token=secret#x") == "https://host/a/b.zip"
