"""The simulated months that we ship, their picture, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from robustidps import cli
from robustidps.errors import ConfigError, DatasetError
from robustidps.evaluation.ageing import POLICIES, command, study
from robustidps.evaluation.ageing.picture import draw_ageing
from robustidps.evaluation.ageing.scenario import Change, changes, scenario, study_settings
from robustidps.families import get_family
from robustidps.testing.linear import Linear
from tests.evaluation.ageing.conftest import weeks


def test_the_reported_scenario_shares_no_tool_and_no_service_with_the_one_that_chose_parameters(home) -> None:
    reported, chosen_on = (changes(scenario(name)) for name in ("quarter", "development"))
    assert not {c.name for c in reported} & {c.name for c in chosen_on}
    assert scenario("quarter").seed != scenario("development").seed


@pytest.mark.parametrize("name", ["short", "quarter", "development"])
def test_scenarios_change_after_the_first_weeks_and_before_the_end(name: str, home) -> None:
    settings = scenario(name)
    days = [c.day for c in changes(settings)]
    assert len(days) == len(settings.new_tools) + len(settings.drift) and days == sorted(days)
    assert min(days) > 14 and max(days) < settings.days - 7


def test_another_seed_keeps_the_calendar(home) -> None:
    assert changes(scenario("short", seed=3)) == changes(scenario("short"))
    assert scenario("short", seed=3).digest != scenario("short").digest


def test_the_same_studies_draw_the_same_picture(traffic, settings, family, tmp_path: Path) -> None:
    known = (Change(16, "tool", "a $tool$"), Change(20, "service", "web"), Change(2, "tool", "too early"))
    made = study(traffic, *family, settings, policies=["frozen", "loop"], changes=known)
    one, two = (draw_ageing([made, made], tmp_path / f"{n}.png", subject="toy") for n in (1, 2))
    assert one.read_bytes() == two.read_bytes() and one.read_bytes()[:4] == b"\x89PNG"


def test_studies_of_different_policies_make_no_common_picture(traffic, settings, family, tmp_path: Path) -> None:
    made = [study(traffic, *family, settings, policies=[name]) for name in ("frozen", "weekly")]
    with pytest.raises(DatasetError, match="differ"):
        draw_ageing(made, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest family in place of those that need a framework."""
    monkeypatch.setattr(command, "get_family", lambda name: Linear())


def ask(path: Path, out: Path, *more: str) -> list[str]:
    words = ["ageing", "--dataset", str(path), "--policies", "frozen, weekly", "--out", str(out), "--start-days", "6"]
    return [*words, "--start-labels", "200", "--delay-days", "2", "--slot-days", "4", "--labels-per-day", "30", *more]


def test_a_file_of_ones_own_is_studied_and_leaves_a_picture_and_figures(home, linear, tmp_path: Path) -> None:
    path = weeks(20).write(tmp_path / "own.parquet")
    shown = CliRunner().invoke(cli.app, ask(path, tmp_path / "out", "--json"))
    assert shown.exit_code == 0
    figures = json.loads(shown.stdout)
    assert set(figures["policies"]) == {"frozen", "weekly"} and figures["slots"] == 3
    assert sorted(Path(f).name for f in figures["files"]) == ["ageing.json", "ageing.png"]
    assert json.loads((tmp_path / "out" / "ageing.json").read_text())["policies"] == figures["policies"]
    shown = CliRunner().invoke(cli.app, ask(path, tmp_path / "out"))
    assert shown.exit_code == 0 and "macro-F1" in shown.stdout
    assert [line.split()[0] for line in shown.stdout.splitlines()[2:]] == ["frozen", "weekly"]


def test_a_file_without_time_ends_in_one_clear_error_and_writes_nothing(home, linear, tmp_path: Path) -> None:
    traffic = weeks(20)
    traffic.time[:] = np.nan
    path = traffic.write(tmp_path / "own.parquet")
    shown = CliRunner().invoke(cli.app, ask(path, tmp_path / "out"))
    assert isinstance(shown.exception, DatasetError) and "no time" in str(shown.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--policies", "hourly"], "hourly"), (["--scenario", "no_such"], "no_such"), (["--set", "depth=3"], "depth")],
)
def test_a_wrong_word_ends_before_any_traffic_is_made(home, linear, words: list[str], named: str) -> None:
    shown = CliRunner().invoke(cli.app, ["ageing", *words])
    assert isinstance(shown.exception, ConfigError) and named in str(shown.exception)
    assert not (home / "captures").exists() or not any((home / "captures").iterdir())


def test_a_family_trains_faster_in_a_study_unless_told_otherwise(home) -> None:
    family = get_family("neural_ode")
    assert study_settings(family).epochs < family.settings().epochs
    assert study_settings(family, {"epochs": 99}).epochs == 99


def test_policies_are_listed_as_the_page_and_the_command_name_them() -> None:
    assert list(POLICIES) == ["frozen", "weekly", "daily", "loop"]
