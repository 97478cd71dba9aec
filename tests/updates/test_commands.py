"""`robustidps updates ..` with what it can't do: one message that says what, where and what to do; and its JSON."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from robustidps import cli, settings
from robustidps.cli import _app
from robustidps.doctor import Finding, examine
from robustidps.registry import registry as registry_module
from robustidps.system.supervisor import claimed_port
from robustidps.testing.remote import MemoryRemote
from robustidps.updates import installing
from tests.updates.conftest import Server

SUBCOMMANDS = {"trust": (), "check": (), "install": ("toy", "1.1.0"), "run": (), "unpin": ("toy",)}


@pytest.fixture
def served(bundles, tmp_path):
    """A web server with 1.1.0 on offer, and what it publishes."""
    published = MemoryRemote.offering(bundles["1.1.0"])
    server = Server(published.write(tmp_path / "www"))
    server.published = published
    yield server
    server.stop()


@pytest.fixture
def run(site, served, tmp_path, monkeypatch, capsys):
    """Runs `robustidps updates ..` in this process, in an installation whose root is pinned; code, stdout, stderr."""
    published = served.published
    published.registry(site.settings.home)
    root = tmp_path / "root.json"
    root.write_bytes(published.first_root)
    (site.settings.home / "settings.yaml").write_text("enable_auto_update: true\nupdates_rules: {toy: toy_update}\n")
    monkeypatch.setenv("ROBUSTIDPS_HOME", str(site.settings.home))
    monkeypatch.setenv("ROBUSTIDPS_REMOTE_REGISTRY_URL", served.url)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(registry_module, "Tracking", lambda settings: site.tracking)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["robustidps", "updates", *map(str, words)])
        _app.given.clear()
        monkeypatch.setattr(settings, "_current", None)  # as in a new process
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return int(end.value.code or 0), said.out, said.err

    yield call
    settings._current = None


def refused(answer: tuple[int, str, str], code: int, *says: str) -> None:
    """Exit code and message; nothing on standard output, which a script reads."""
    found, out, err = answer
    assert (found, out) == (code, ""), err
    message = "".join(err.partition("error ")[1:])  # what went before is progress
    for text in says:
        assert text in message


# --- nothing to ask, or nobody to trust


@pytest.mark.parametrize("words", [("check",), ("install", "toy"), ("run",)], ids=" ".join)
def test_without_an_address_it_is_said_which_setting_is_missing(run, monkeypatch, words):
    monkeypatch.delenv("ROBUSTIDPS_REMOTE_REGISTRY_URL")
    refused(run(*words), 3, "remote_registry_url", "no remote registry is named", "ROBUSTIDPS_REMOTE_REGISTRY_URL")


@pytest.mark.parametrize("words", [("trust",), ("check",), ("install", "toy", "1.1.0"), ("run",)], ids=" ".join)
def test_without_a_pinned_root_it_is_said_how_to_pin_one(run, site, served, words):
    (site.settings.home / "updates" / "root.json").unlink()
    refused(run(*words), 3, "updates/root.json", "no root is pinned", "robustidps updates trust root.json")
    assert served.asked == []


def test_an_address_that_is_none_is_refused_without_showing_its_password(run, monkeypatch):
    monkeypatch.setenv("ROBUSTIDPS_REMOTE_REGISTRY_URL", "https://user:hunter22@models.example.org")
    code, out, err = run("check")
    assert (code, out) == (3, "") and "remote_registry_url" in err and "hunter22" not in err


def test_a_registry_that_is_down_is_unavailable_and_one_that_has_expired_is_not_trusted(run, served, monkeypatch):
    published = served.published
    published.signed("timestamp").expires -= timedelta(days=30)
    published.signed("timestamp").version += 1
    published.store("timestamp")
    published.write(served.folder)
    refused(
        run("check"), 5, "remote registry", served.url, "timestamp.json", "expired", "the publisher has to refresh it"
    )
    served.misbehave = lambda handler: handler.send(404) or True
    refused(run("check"), 6, "remote registry", served.url, "404", "try later, or name another mirror")


# --- trust


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"not JSON", b"\xff\x00", b'{"signed": {"_type": "root"}}', b"[" * 9000]
)
def test_a_file_that_is_no_root_is_not_pinned(run, site, tmp_path, content):
    (tmp_path / "other.json").write_bytes(content)
    before = (site.settings.home / "updates" / "root.json").read_bytes()
    refused(run("trust", tmp_path / "other.json", "--replace"), 5, str(tmp_path / "other.json"), "can't be trusted")
    assert (site.settings.home / "updates" / "root.json").read_bytes() == before


def test_a_root_that_is_larger_than_any_is_not_read_into_memory(run, tmp_path):
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**40)
    refused(run("trust", tmp_path / "huge.json"), 5, str(tmp_path / "huge.json"), "larger than")
    refused(run("trust", tmp_path), 3, str(tmp_path), "can't be read")
    refused(run("trust", tmp_path / "none.json"), 3, "none.json", "can't be read", "No such file")


def test_another_fingerprint_or_another_root_than_the_pinned_one_is_refused(run, tmp_path, served):
    refused(
        run("trust", tmp_path / "root.json", "--fingerprint", "00" * 32), 5, "root.json", "fingerprint", "publisher"
    )
    (tmp_path / "other.json").write_bytes(MemoryRemote().first_root)
    refused(run("trust", tmp_path / "other.json"), 7, "updates/root.json", "another root is pinned", "--replace")
    code, out, _ = run("trust", tmp_path / "other.json", "--replace", "--json")
    assert code == 0 and json.loads(out)["mirrors"] == [served.url]
    refused(run("check"), 5, "remote registry", "signed by")


def test_a_fingerprint_without_a_file_is_compared_with_the_pinned_root(run):
    refused(run("trust", "--fingerprint", "00" * 32), 5, "updates/root.json", "fingerprint")
    _, out, _ = run("trust", "--json")
    assert run("trust", "--fingerprint", json.loads(out)["fingerprint"].upper())[0] == 0


# --- check, install, run


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("check", "nothing"), 3, ("nothing", "no such model is registered here or on offer")),
        (("check", "../x"), 3, ("../x", "is not a model name")),
        (("install", "nothing"), 3, ("nothing", "no such model is registered here or on offer")),
        (("install", "../x", "1.0.0"), 3, ("../x", "is not a model name")),
        (("install", "toy", "1.7.0"), 3, ("toy 1.7.0", "is not on offer", "1.1.0")),
        (("install", "toy", "latest"), 3, ("toy latest", "is not on offer", "1.1.0")),
        (("install", "toy", "1.1.0", "--rules", "nope"), 3, ("nope.yaml", "no such file")),
        (("run", "nothing"), 3, ("nothing", "no such model is registered here or on offer")),
        (("run", "--rules", "nope"), 3, ("nope.yaml", "no such file")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and len(value[0]) < 9 else "",
)
def test_what_is_not_there_is_named(run, site, words, code, says):
    refused(run(*words), code, *says)
    assert [d.action for d in site.history("toy")] == ["register", "promote"]
    assert not list((site.settings.home / "updates" / "work").glob("*"))


def test_a_second_update_at_once_is_told_so(run, site):
    with installing.working_on(site, "toy"):
        refused(run("install", "toy", "1.1.0"), 7, "update-toy", "another process")
        code, out, _ = run("run", "--json")
        assert code == 0 and json.loads(out)["toy"]["outcome"] == "held"


def test_nothing_of_a_frozen_model_is_taken_and_asking_for_it_ends_in_exit_code_4(run, site):
    site.freeze("toy", reason="incident 7")
    code, out, _ = run("run", "--json")
    assert code == 0 and json.loads(out)["toy"]["outcome"] == "held"
    refused(run("install", "toy", "1.1.0", "--activate"), 4, "toy: frozen by", "incident 7", "robustidps thaw toy")
    assert not list(site.settings.folder("updates").glob("**/bundle.tar"))
    assert site.assignment("toy").production == "1.0.0"


def test_json_is_all_that_is_printed_and_an_update_goes_through(run, site):
    for words, kind in {("trust",): dict, ("check",): list, ("check", "--all"): list, ("unpin", "toy"): dict}.items():
        code, out, err = run(*words, "--json")
        assert (code, err) == (0, "") and isinstance(json.loads(out), kind)
    code, out, err = run("install", "toy", "--json")
    assert code == 0 and json.loads(out)["outcome"] == "staged", err
    code, out, err = run("run", "--json")
    assert code == 0 and json.loads(out)["toy"]["outcome"] == "activated", err
    refused(run("install", "toy"), 7, "toy", "nothing newer is on offer", "robustidps updates check --all")
    assert site.assignment("toy").production == "1.1.0"


# --- pin


def test_traffic_that_cannot_be_read_or_has_no_labels_is_not_pinned(run, site, tmp_path):
    from dataclasses import replace

    from robustidps.testing.traffic import toy_traffic

    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    bare = toy_traffic(50, seed=1)
    replace(bare, labels=bare.labels * 0 - 1).write(tmp_path / "bare.parquet")
    good = bare.write(tmp_path / "good.parquet")
    refused(run("pin", "toy", tmp_path / "none.parquet"), 3, "none.parquet", "no such file")
    refused(run("pin", "toy", tmp_path), 3, str(tmp_path))
    refused(run("pin", "toy", tmp_path / "rows.parquet"), 3, "rows.parquet")
    refused(run("pin", "toy", tmp_path / "rows.csv"), 3, "rows.csv")
    refused(run("pin", "toy", tmp_path / "bare.parquet"), 3, "bare.parquet", "no row has a label")
    refused(run("pin", "toy", good, "--evaded", tmp_path / "none.parquet"), 3, "none.parquet")
    refused(run("pin", "../x", good), 3, "../x", "is not a model name")
    refused(run("unpin", "../x"), 3, "../x", "is not a model name")
    assert not list(site.settings.folder("updates", "benchmarks").iterdir())
    code, out, err = run("pin", "toy", good, "--json")
    assert (code, err) == (0, "") and json.loads(out)["rows"] == 50


def test_a_pin_that_was_edited_stops_the_update_and_says_what_to_do(run, site, tmp_path):
    from robustidps.testing.traffic import toy_traffic

    run("pin", "toy", toy_traffic(50, seed=1).write(tmp_path / "good.parquet"))
    file = site.settings.home / "updates" / "benchmarks" / "toy.json"
    file.write_text(file.read_text().replace('"rows": 50', '"rows": 51'))
    refused(run("install", "toy", "1.1.0"), 5, "benchmarks/toy.json", "signature", "pin the benchmark anew")
    assert site.assignment("toy").staging is None
    code, out, _ = run("run", "--json")
    assert code == 6 and json.loads(out)["toy"]["outcome"] == "failed"
    assert [(d.verdict, d.version) for d in site.history("toy") if d.action == "turn_away"] == [("hold", "1.1.0")]
    assert run("unpin", "toy")[0] == 0  # what was ours and edited is no judgement on the update
    code, out, _ = run("run", "--json")
    assert code == 0 and json.loads(out)["toy"]["outcome"] == "activated"


def test_a_mirror_that_sent_other_bytes_is_no_judgement_on_the_version(run, site, served):
    [bundle] = [path for path in served.published.files if path.endswith("bundle.tar")]
    good = (served.folder / bundle).read_bytes()
    (served.folder / bundle).write_bytes(good[:-1] + b"x")
    refused(run("install", "toy", "1.1.0"), 5, "remote registry", "bundle.tar", "isn't the file that was signed")
    (served.folder / bundle).write_bytes(good)
    code, out, _ = run("run", "--json")
    assert code == 0 and json.loads(out)["toy"]["outcome"] == "activated"


# --- what `robustidps doctor` says of them


def looked(site) -> Finding:
    return next(f for f in examine(_app.current_settings()) if f.what == "signed updates")


def test_doctor_says_whom_updates_are_believed_and_until_when(run, site, served, monkeypatch):
    updates = site.settings.home / "updates"
    fingerprint = json.loads(run("trust", "--json")[1])["fingerprint"]
    before = {path: path.read_bytes() for path in updates.rglob("*") if path.is_file()}
    found = looked(site)
    assert found.status == "ok"
    assert fingerprint in found.text and "1 of 1 mirrors answers" in found.text
    assert "expires in 7.0 days (" in found.text
    assert {path: path.read_bytes() for path in updates.rglob("*") if path.is_file()} == before  # it only looks
    assert not [path for path, _ in served.asked if "targets/" in path]


def test_doctor_warns_of_mirrors_and_metadata_that_updates_cannot_come_from(run, site, served, monkeypatch):
    run("trust")
    with claimed_port(0) as nobody:
        monkeypatch.setenv("ROBUSTIDPS_REMOTE_REGISTRY_URL", f"{served.url} http://127.0.0.1:{nobody}")
        found = again(site)
        assert found.status == "warn" and "1 of 2 mirrors answers" in found.text and str(nobody) in found.remedy
        monkeypatch.setenv("ROBUSTIDPS_REMOTE_REGISTRY_URL", f"http://127.0.0.1:{nobody}")
        found = again(site)
        assert found.status == "warn" and "refused" in found.text and "another mirror" in found.remedy
    monkeypatch.setenv("ROBUSTIDPS_REMOTE_REGISTRY_URL", served.url)
    served.published.signed("timestamp").expires -= timedelta(days=30)
    served.published.signed("timestamp").version += 1
    served.published.store("timestamp")
    served.published.write(served.folder)
    found = again(site)
    assert found.status == "warn" and "timestamp.json: has expired" in found.text
    (site.settings.home / "updates" / "root.json").unlink()
    found = again(site)
    assert found.status == "warn" and "no root is pinned" in found.text and "updates trust" in found.remedy
    monkeypatch.delenv("ROBUSTIDPS_REMOTE_REGISTRY_URL")
    found = again(site)
    assert (found.status, found.remedy) == ("ok", "") and "not used" in found.text


def again(site) -> Finding:
    settings._current = None
    return looked(site)
