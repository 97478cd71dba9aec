"""What the command says, and how it ends."""

from __future__ import annotations

import pytest

from robustidps import cli, settings
from robustidps.loihi import gate
from robustidps.pages import show_loihi
from tests.loihi.test_parity import report


def run(monkeypatch, tmp_path, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["robustidps", "--home", str(tmp_path / "home"), *words])
    monkeypatch.setenv("ROBUSTIDPS_LOIHI_PYTHON", str(tmp_path / "none"))
    monkeypatch.setattr(cli._app, "given", {})
    monkeypatch.setattr(settings, "_current", None)
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_without_the_environment_the_command_ends_at_once_and_says_what_to_do(monkeypatch, tmp_path, capsys) -> None:
    assert run(monkeypatch, tmp_path, "export", "loihi", "spiking") == 6
    said = capsys.readouterr().err
    assert "isn't set up" in said and "make loihi" in said and "Traceback" not in said


def test_a_name_that_is_none_is_bad_input(monkeypatch, tmp_path, capsys) -> None:
    assert run(monkeypatch, tmp_path, "export", "loihi", "../etc") == 3


@pytest.mark.parametrize("agrees", [True, False])
def test_every_requirement_and_what_became_of_the_alias_is_shown(agrees, capsys) -> None:
    made = report(emulator={} if agrees else {"spikes_differing": 7})
    made = made.model_copy(update={"requirements": gate.requirements(made, trained_on=None)})
    said = gate.verdict(made)
    alias = {"verdict": said["outcome"], "reasons": said["reasons"]}
    show_loihi({"report": made.model_dump(mode="json"), "files": [], "alias": alias})
    shown = capsys.readouterr().out
    assert ("NOT MET" in shown, "refused" in shown, "7 of" in shown) == ((not agrees,) * 3)
    assert "given" in shown if agrees else "refused, and recorded" in shown
    assert "an estimate" in shown and "under 30 mW" in shown and "Loihi 2" in shown
