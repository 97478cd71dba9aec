"""Families are found by entry point; one that is broken is listed with its reason and breaks nothing else."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
from pydantic import Field

from robustidps import families
from robustidps.errors import ConfigError, MissingExtraError
from robustidps.families import GROUP, FamilySettings, ModelFamily, discover, family_settings, get_family
from robustidps.settings import get_settings, use_settings
from robustidps.testing.linear import Linear, LinearSettings

HERE = "robustidps_test_plugins"


@pytest.fixture
def plugins(monkeypatch):
    """Replaces what is installed by entry points of the test's own, all allowed; gives a function that adds one."""
    points = []

    def install(name, value, distribution="plugin"):
        point = EntryPoint(name, value, GROUP)
        point = SimpleNamespace(name=name, value=value, dist=SimpleNamespace(name=distribution), load=point.load)
        points.append(point)

    monkeypatch.setattr(families, "entry_points", lambda group: list(points) if group == GROUP else [])
    with use_settings(get_settings().model_copy(update={"plugins": ("any",)})):
        yield install


@pytest.fixture
def module(monkeypatch, tmp_path):
    """Writes an importable module; gives a function from its source to its name."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def write(source):
        made.append(f"{HERE}_{len(made)}_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_"))
        (tmp_path / f"{made[-1]}.py").write_text(source)
        return made[-1]

    return write


LINEAR = "robustidps.testing.linear:Linear"
SUBCLASS = "from robustidps.testing.linear import Linear\nclass F(Linear):\n    "


def test_a_good_plugin_is_found_and_can_be_had(plugins):
    plugins("linear", LINEAR)
    (info,) = discover().values()
    assert (info.name, info.distribution, info.problem) == ("linear", "plugin", None)
    assert isinstance(get_family("linear"), Linear) and isinstance(get_family("linear"), ModelFamily)


def test_the_built_in_family_is_installed():
    info = discover()["neural_ode"]
    assert info.distribution == "robustidps"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import does_not_exist", "No module named 'does_not_exist'"),
        ("1 +", "SyntaxError"),
        ("raise RuntimeError('\x1b[2Jgone')", "RuntimeError: ?[2Jgone"),
        ("class F:\n    def __init__(self): raise OSError('no device')", "OSError: no device"),
        ("F = 7", "TypeError"),
        ("class F: pass", "is not a ModelFamily"),
        ("class F:\n    name = 'one'\n    def train(self): ...", "is not a ModelFamily"),
        ("x = 1", "AttributeError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        (SUBCLASS + "name = 'one'; settings = dict", "its settings aren't FamilySettings"),
        (SUBCLASS + "name = 'one'; requires = None", "TypeError"),
        (SUBCLASS + "name = 'other'", "calls itself 'other'"),
        (
            SUBCLASS + "name = 'one'; requires = ('no_such_framework',); extra = 'none'",
            "no_such_framework not installed",
        ),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason_and_the_others_work(plugins, module, source, reason):
    plugins("one", f"{module(source)}:F")
    plugins("linear", LINEAR)
    found = discover()
    assert reason in found["one"].problem and found["one"].problem.isprintable()
    assert found["linear"].problem is None and get_family("linear")
    with pytest.raises((ConfigError, MissingExtraError)) as caught:
        get_family("one")
    assert caught.value.exit_code in (3, 6)


def test_a_missing_framework_says_what_to_install(plugins, module):
    source = SUBCLASS + "name = 'two'; requires = ('no_such_framework',); extra = 'quantum'"
    plugins("two", f"{module(source)}:F", distribution="their-plugin")
    with pytest.raises(MissingExtraError, match=r"pip install 'their-plugin\[quantum\]'"):
        get_family("two")
    assert discover()["two"].remedy == "pip install 'their-plugin[quantum]'"


@pytest.mark.parametrize(
    "value", ["", "json", "robustidps.testing.linear:Nobody", "robustidps.testing.linear:TrainedLinear"]
)
def test_an_entry_point_that_leads_nowhere_is_listed(plugins, value):
    plugins("one", value)
    assert discover()["one"].problem


@pytest.mark.parametrize("name", ["../climb", "UPPER", "\x1b[31mred", "<b>", "", "a" * 64])
def test_a_name_that_is_none_is_listed_and_not_loaded(plugins, module, name, capsys):
    plugins(name, f"{module('print(1)')}:F")
    (info,) = discover().values()
    assert "is not a family name" in info.problem and info.problem.isprintable()
    assert capsys.readouterr().out == ""


def test_ours_wins_a_contested_name_whoever_is_installed_first(plugins):
    plugins("linear", "robustidps.testing.linear:TrainedLinear", distribution="a-squatter")
    plugins("linear", LINEAR, distribution="robustidps")
    plugins("linear", LINEAR, distribution="zebra")
    found = discover()
    assert found["linear"].distribution == "robustidps" and found["linear"].problem is None
    assert found["linear (a-squatter)"].problem == "the name is taken by robustidps"
    assert found["linear (zebra)"].problem == "the name is taken by robustidps"


def test_an_unknown_family_is_told_which_there_are(plugins):
    plugins("linear", LINEAR)
    with pytest.raises(ConfigError, match="known: linear"):
        get_family("lenear")


# --- settings


def write_configuration(home, text):
    (home / "configs" / "families").mkdir(parents=True)
    (home / "configs" / "families" / "linear.yaml").write_text(text)


def test_settings_come_from_the_file_with_overrides_on_top(home):
    write_configuration(home, "epochs: 7\nseed: 3\n")
    assert family_settings(Linear(), {"seed": 9}) == LinearSettings(epochs=7, seed=9)


def test_a_family_without_a_file_has_its_defaults(home):
    assert family_settings(Linear()) == LinearSettings()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"epoch": 3}, "unknown key 'epoch'.*known keys: seed, epochs, learning_rate"),
        ({"epochs": 0}, "'epochs' = 0"),
        ({"learning_rate": "fast"}, "'learning_rate' = 'fast'"),
        ({"seed": -1}, "'seed' = -1"),
        ({"seed": 2**31}, "seed"),
    ],
)
def test_a_setting_that_is_none_or_out_of_range_is_named(overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        family_settings(Linear(), overrides)


def test_a_mistake_in_the_file_is_named_with_the_file(home):
    write_configuration(home, "epochs: 7\nepochs: 8\n")
    with pytest.raises(ConfigError, match=r"linear\.yaml: .*'epochs' is given twice"):
        family_settings(Linear())


def test_settings_cannot_be_changed_and_take_no_unknown_key():
    class Mine(FamilySettings):
        depth: int = Field(default=1, description="layers")

    with pytest.raises(ValueError, match="frozen"):
        Mine().depth = 2
    with pytest.raises(ValueError, match="extra"):
        Mine(width=3)
