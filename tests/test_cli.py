"""The command line without an installation: help, options, and what bad input ends in."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

from robustidps import cli, console, settings
from robustidps.cli import _app
from robustidps.errors import printable


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs a command in this process; gives exit code, standard output and standard error."""
    monkeypatch.setenv("ROBUSTIDPS_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["robustidps", *map(str, words)])
        _app.given.clear()
        monkeypatch.setattr(settings, "_current", None)  # as in a new process
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        code = end.value.code
        return (0 if code is None else int(code)), said.out, said.err

    return call


def _all(group, before: str = "") -> list[str]:
    """Every command's words, those of groups included."""
    found = []
    for name, command in group.commands.items():
        words = f"{before} {name}".strip()
        found += _all(command, words) if hasattr(command, "commands") else [words]
    return found


COMMANDS = _all(get_command(cli.app))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = CliRunner().invoke(cli.app, [*command.split(), "--help"])
    assert shown.exit_code == 0 and len(shown.output.split()) > 15


def test_lists_are_json_where_a_script_reads_them(run) -> None:
    for words in (("models",), ("models", "--families"), ("data", "list"), ("data", "fetch"), ("history",)):
        code, out, _ = run(*words, "--json")
        assert code == 0 and isinstance(json.loads(out), list)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("train", "nope"), 3, "no family"),
        (("train", "neural_ode", "--set", "hidden=-1"), 3, "hidden"),
        (("train-all", "nope"), 3, "no family"),
        (("train-all", "--set", "epochs=1"), 3, "FAMILY.key=value"),
        (("train-all", "quantum", "--set", "spiking.epochs=1"), 3, "isn't trained"),
        (("train-all", "--dask", "10.0.0.7:8786"), 3, "no place to train in"),
        (("train-all", "--rules", "nope"), 3, "nope.yaml: no such file"),
        (("train", "neural_ode", "--set", "hiden=1"), 3, "unknown key 'hiden'"),
        (("train", "neural_ode", "--set", "hidden"), 3, "key=value"),
        (("train", "neural_ode", "--set", "hidden=" + "[" * 5000), 3, "nested too deeply"),
        (("train", "neural_ode", "--set", "hidden=2026-99-99"), 3, "--set hidden"),
        (("train", "neural_ode", "--dataset", "nope"), 3, "no data set"),
        (("train", "neural_ode", "--dataset", "a" * 5000), 3, "no data set"),
        (("train", "neural_ode", "--dataset", "~nobody-of-that-name/x"), 3, "no data set"),
        (("train", "neural_ode", "--version", "1.0"), 3, "not a semantic version"),
        (("train", "neural_ode", "--hold-out", "nmap"), 3, "tool=NAME"),
        (("train", "neural_ode", "--hold-out", "day=2026-99-99"), 3, "--hold-out"),
        (("train", "neural_ode", "--name", "../x"), 3, "not a model name"),
        (("train", "neural_ode", "--rules", "nope"), 3, "nope.yaml: no such file"),
        (("data", "describe", "a" * 5000), 3, "no such file"),
        (("data", "fetch", "nsl-kdd"), 6, "(1) see whether its authors offer it again"),
        (("data", "fetch", "nope"), 3, "no public data set"),
        (("data", "fetch", "--to", "somewhere"), 3, "needs the name"),
        (("data", "fetch", "cic_ids2017", "--to", "/dev/null"), 6, "a file is in the way"),
        (("models", "../../etc"), 3, "is not a model name"),
        (("models", "nothing"), 3, "no such model"),
        (("promote", "nothing", "1.0.0"), 3, "no such model"),
        (("promote", "nothing", "1.0"), 3, "no such model"),
        (("rollback", "nothing"), 3, "no such model"),
        (("score", "nothing.pcap", "--model", "nothing"), 3, "no such model"),
        (("data", "describe", "nothing.pcap"), 3, "no such file"),
        (("ingest", "nothing.pcap"), 3, "nothing.pcap"),
        (("ingest", "nothing.pcap", "--out", "./nothing.pcap"), 3, "is the capture itself"),
        (("ingest", "/"), 3, "is not a file"),
        (("ingest", "a" * 5000, "--label", "Benign"), 3, "can't be opened"),
        (("ingest", "x.pcap", "--labels", "nothing.csv"), 3, "nothing.csv: no such file"),
        (("ingest", "x.pcap", "--labels", "x.csv", "--out", "./x.csv"), 3, "is the label file"),
        (("ingest", "x.pcap", "--labels", "x.csv", "--label", "Benign"), 3, "exclude each other"),
        (("ingest", "x.pcap", "--label", "Teleport"), 3, "'Teleport' is no class"),
        (("ingest", "x.pcap", "--label", ""), 3, "is no class"),
        (("ingest", "x.pcap", "--unmatched", "benign"), 3, "no label file"),
        (("ingest", "x.pcap", "--labels", "x.csv", "--max-unmatched", "nan"), 3, "--max-unmatched"),
        (("ingest", "x.pcap", "--labels", "x.csv", "--labels-timezone", "Mars"), 3, "is no time zone"),
        (("ingest", "x.pcap", "--labels", "x.csv", "--label-words", "none.yaml"), 3, "none.yaml: no such file"),
        (("ingest", "/", "--labels", "x.csv", "--out", "x.pcap"), 3, "ends as a capture does"),
        (("ingest", "nothing.pcap", "--max-seconds", "nan"), 3, "limit on seconds"),
        (("ingest", "x.pcap", "--truncated", "maybe"), 2, "maybe"),
        (("frobnicate",), 2, "frobnicate"),
    ],
    ids=lambda value: " ".join(map(str, value))[:60] if isinstance(value, tuple) else None,
)
def test_bad_input_ends_in_one_message_and_an_exit_code(run, words: tuple, code: int, says: str) -> None:
    found, out, err = run(*words)
    assert found == code, err
    assert says in err and "Traceback" not in out + err


def test_a_name_with_terminal_markup_is_shown_harmless(run) -> None:
    code, _, err = run("models", "\x1b[2J[red]x[/red]\u202e")
    assert code == 3
    assert "\x1b[2J" not in err and "\u202e" not in err and "[red]x[/red]" in err


def test_debug_shows_the_traceback(run, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustidps.errors import ConfigError

    monkeypatch.setattr("sys.argv", ["robustidps", "--debug", "train", "nope"])
    with pytest.raises(ConfigError):
        cli.main()


def test_an_unknown_setting_in_the_settings_file_is_named(run, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "settings.yaml").write_text("colour: red\n")
    code, _, err = run("models")
    assert code == 3 and "colour" in err


def test_configurations_under_the_home_of_the_command_line_are_found(run, tmp_path: Path) -> None:
    """Not those of ROBUSTIDPS_HOME, which the settings were read from before."""
    (tmp_path / "other" / "configs" / "training").mkdir(parents=True)
    (tmp_path / "other" / "configs" / "training" / "mine.yaml").write_text("source: simulator\n")
    code, out, _ = run("--home", tmp_path / "other", "data", "list", "--json")
    assert code == 0 and "mine" in [row["name"] for row in json.loads(out)]


def test_ctrl_c_is_said_and_is_130(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustidps.traffic.capture.ingest", interrupted)
    code, out, err = run("ingest", "x.pcap", "--json")
    assert (code, out) == (130, "") and "interrupted" in err and "Traceback" not in err


@pytest.mark.parametrize("named", ["~nobody-of-that-name/x", "a" * 5000])
def test_a_home_that_cannot_be_is_one_message(run, named: str) -> None:
    code, _, err = run("--home", named, "models")
    assert code == 3 and "can't be the home folder" in err and "Traceback" not in err


def test_the_demo_never_removes_a_folder_it_did_not_make(run, home: Path) -> None:
    (home / "demo").mkdir(parents=True)
    (home / "demo" / "thesis.txt").write_text("years of work")
    code, _, err = run("demo")
    assert code == 3 and "no demo made" in err
    assert (home / "demo" / "thesis.txt").read_text() == "years of work"


def test_doctor_finds_a_sound_installation_sound_and_a_read_only_one_not(run, home: Path) -> None:
    code, out, _ = run("doctor", "--json")
    findings = {f["what"]: f for f in json.loads(out)}
    assert code == 0, findings
    assert findings["MLflow"]["status"] == "ok" and findings["decision ledger"]["status"] == "ok"


def test_a_table_cell_never_interprets_markup(capsys: pytest.CaptureFixture) -> None:
    console.table("", ["a"], [["[bold]x[/bold]\x1b[31m"]])
    shown = capsys.readouterr().out
    assert "[bold]x[/bold]?[31m" in shown


def test_a_live_table_is_drawn_when_it_changes_with_whole_addresses_and_gives_the_terminal_back(monkeypatch) -> None:
    drawn, looks = io.StringIO(), iter(range(6))
    terminal = Console(file=drawn, force_terminal=True, width=60, height=24, soft_wrap=True)
    monkeypatch.setattr(console, "err", terminal)
    row = ["Prefect", "http://127.0.0.1:38051", "up", "20:24:39", ""]

    def look() -> None:
        number = next(looks)
        row[2] = "up" if number < 3 else "not answering"
        if number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        console.watched(("service", "address", "health", "since (UTC)", "restarts"), lambda: [row], look)
    shown = drawn.getvalue()
    assert shown.count("http://127.0.0.1:38051") == 3  # at first, when it changed, and as it ends
    assert shown.count("not answering") == 2
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor, hidden and shown


def test_json_output_is_json_also_where_a_figure_is_no_number(capsys: pytest.CaptureFixture) -> None:
    console.emit_json({"a": [float("nan"), 1.5, {"b": float("inf")}]})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5, {"b": None}]}


def test_printable_replaces_what_moves_the_cursor_and_keeps_the_rest() -> None:
    assert printable("Zürich\n\x1b]0;x\x07\u2066") == "Zürich??]0;x??"


def test_describe_says_what_a_data_set_is_and_what_would_be_dropped(run, tmp_path: Path) -> None:
    from robustidps.testing.published import CORRECTED, ORIGINAL, row, write

    path = write(tmp_path / "friday.csv", CORRECTED, [row(CORRECTED, label="BENIGN")])
    with zipfile.ZipFile(tmp_path.parent / f"{tmp_path.name}.zip", "w") as archive:
        archive.write(path, "x/friday.csv")
    for where in (path, tmp_path, Path(str(archive.filename)) / "x" / "friday.csv"):
        code, out, _ = run("data", "describe", where, "--json")
        facts = {line[""]: line["value"] for line in json.loads(out)}
        assert code == 0 and facts["release"].startswith("a sample of CIC-IDS2017, corrected release")
        assert facts["rows"] == 1 and facts["part friday.csv"] == "friday.csv, 1 row"
        assert facts["drops Src IP"] and "1 %" in facts["drops rows"]
        assert "Infiltration" in facts["classes"] and facts["defect 1"]
    code, out, _ = run("data", "describe", path)
    assert code == 0 and "corrected release" in out and "defect 1" in out
    write(tmp_path / "Monday-WorkingHours.pcap_ISCX.csv", ORIGINAL, [row(ORIGINAL, label="BENIGN")])
    code, _, err = run("data", "describe", tmp_path)
    assert code == 3 and "mixes releases" in err and "friday.csv" in err and "Monday-WorkingHours" in err
