"""Errors say what, where and what to do, in one safe line; settings and YAML take nothing that they don't know."""

from __future__ import annotations

import errno
import inspect
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustidps import errors, settings
from robustidps.errors import ConfigError, MissingExtraError, NameInvalidError, RobustIDPSError, StorageError, printable
from robustidps.settings import Settings, check_name, get_settings, load_yaml, make_settings, use_settings, writable

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, RobustIDPSError) and kind is not RobustIDPSError
]

# --- errors


def test_the_tree_at_the_top_of_the_file_is_the_tree():
    drawn = [
        line.split()[0] for line in (errors.__doc__ or "").splitlines() if line.strip().split("  ")[0].endswith("Error")
    ]
    assert sorted(drawn) == sorted(kind.__name__ for kind in [RobustIDPSError, *ALL])
    assert set(drawn) <= set(errors.__all__)


def test_every_error_has_an_exit_code_that_means_something():
    assert {kind.exit_code for kind in ALL} == {3, 4, 5, 6, 7}
    top = {"InputError": 3, "RefusedError": 4, "IntegrityError": 5, "UnavailableError": 6, "ConflictError": 7}
    for kind in ALL:
        (branch,) = [base for base in kind.__mro__ if base.__name__ in top]
        assert kind.exit_code == top[branch.__name__]


def test_an_error_says_where_what_and_what_to_do():
    error = ConfigError("is not a number", where="a.yaml: epochs", remedy="give a whole number")
    assert str(error) == "a.yaml: epochs: is not a number (give a whole number)"
    assert str(ConfigError("is missing")) == "is missing"


@pytest.mark.parametrize(
    "text", ["\x1b]0;owned\x07", "a\nb\rc", "\u202egpj.exe", "\ud800", "\x00", "\u200b", "\x9b31m"]
)
def test_what_a_terminal_would_obey_is_taken_out(text):
    assert printable(text).isprintable()
    error = RobustIDPSError(text, where=text, remedy=text)
    assert str(error).isprintable() and error.problem.isprintable()


def test_ordinary_text_of_any_language_stays():
    assert printable("Größe 流量 — £5") == "Größe 流量 — £5"


def test_a_message_without_end_is_cut():
    assert len(printable("x" * 10_000)) == 200
    assert len(str(RobustIDPSError("x" * 10**6, where="y" * 10**6, remedy="z" * 10**6))) < 4000


def test_a_missing_extra_says_what_to_install():
    assert str(MissingExtraError("torch", "torch")) == "torch is not installed (pip install 'robustidps[torch]')"


@pytest.mark.parametrize("kind", [RobustIDPSError, *ALL])
def test_an_error_is_the_same_in_another_process(kind):
    if kind is MissingExtraError:
        error = kind("PyTorch", "torch", "robustidps-lda")
    else:
        error = kind("is \x00 broken", where="a.yaml", remedy="mend it")
    here, there = multiprocessing.Pipe()
    with here, there:
        here.send(error)
        again = there.recv()
    assert type(again) is kind and str(again) == str(error) and vars(again) == vars(error) and again.args == error.args


# --- the disk


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission"), (errno.EDQUOT, "quota"),
     (errno.EISDIR, "is a folder"), (errno.ENOTDIR, "not a folder"), (errno.EEXIST, "in the way"),
     (errno.ENAMETOOLONG, "too long"), (errno.ELOOP, "in circles"), (errno.EIO, "device failed")],
)  # fmt: skip
def test_what_the_system_refuses_to_write_is_a_storage_error(number, words, tmp_path):
    with pytest.raises(StorageError, match=words) as caught, writable(tmp_path / "model.onnx"):
        raise OSError(number, os.strerror(number))
    assert "model.onnx" in str(caught.value.where) and caught.value.remedy


def test_another_failure_of_the_system_is_not_renamed():
    with pytest.raises(FileNotFoundError), writable(Path("x")):
        raise FileNotFoundError(errno.ENOENT, "no such file")


# --- names


@pytest.mark.parametrize("name", ["neural_ode", "a", "neural_ode-nsl_kdd", "x" * 63, "m1"])
def test_a_plain_name_passes(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd", "a/b", "a\\b", "..", ".", ".hidden", "", "x" * 64, "Upper", "1st", "_x", "-rf", "a b",
        "<script>alert(1)</script>", "a&b", "\x1b[31mred", "name\n", "a\x00b", "näme", "\u0430bc", "[bold]x[/bold]",
        "%2e%2e", "a.b", "a:b", None, 7, b"abc",
    ],
)  # fmt: skip
def test_a_name_that_climbs_or_carries_markup_is_refused_in_safe_words(name):
    with pytest.raises(NameInvalidError) as caught:
        check_name(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


# --- YAML


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rate: float = Field(default=0.1, gt=0, le=1)
    names: list[str] = Field(default_factory=list)


@pytest.fixture
def file(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_a_plain_file_is_read(file):
    assert load_yaml(file("rate: 0.5\nnames: [a, b]\n"), Closed) == Closed(rate=0.5, names=["a", "b"])


TAGS = [
    "rate: !!python/object/apply:os.system ['touch owned']",
    "rate: !!python/object/new:os.system ['touch owned']",
    "names: !!python/tuple [a]",
    "rate: !!python/name:os.system",
    "rate: !!python/module:os",
    "!!python/object:robustidps.settings.Settings {}",
    "rate: !mine 5",
]


@pytest.mark.parametrize("text", TAGS)
def test_a_tag_that_makes_objects_is_refused_and_nothing_runs(file, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.yaml: not readable as plain YAML"):
        load_yaml(file(text), Closed)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rate: 0.5\nrate: 0.6", "'rate' is given twice"),
        ("names: [{a: 1, a: 2}]", "'a' is given twice"),
        ("ratio: 0.5", "unknown key 'ratio'.*known keys: rate, names"),
        ("rate: 2", "'rate' = 2: "),
        ("rate: .nan", "'rate' = nan"),
        ("rate: fast", "'rate' = 'fast'"),
        ("names: {a: 1}", "'names'"),
        ("- a\n- b", "must be a mapping"),
        ("", "must be a mapping"),
        ("rate: [", "not readable as plain YAML"),
        ("? [a]\n: 1", "not readable as plain YAML"),
        ("rate: *nowhere", "not readable as plain YAML"),
        (b"rate: \xff\xfe", "can't be read"),
        (b"rate: 0.5\x00", "not readable as plain YAML"),
        ("[" * 5000, "nested too deeply"),
        ("rate: 2026-99-99", "month must be in"),
        ("rate: !!timestamp x", "not readable as plain YAML"),
        ("rate: !!bool x", "not readable as plain YAML"),
        ("rate: !!int ''", "not readable as plain YAML"),
        ("rate: " + "9" * 5000, "not readable as plain YAML"),
        ("a: 1\nb: 2\nc: 3\nd: 4\ne: 5", "unknown key 'a'; unknown key 'b'"),
        ("\"\\e[2J\": 1", r"unknown key '\?\[2J'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_file_and_key(file, text, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        load_yaml(file(text), Closed)
    assert "config.yaml" in str(caught.value) and str(caught.value).isprintable()


def test_keys_that_do_not_fit_each_other_are_told_without_the_whole_file(file):
    class Ordered(BaseModel):
        low: int
        high: int

        @model_validator(mode="after")
        def _fits(self):
            if self.low > self.high:
                raise ValueError("low is above high")
            return self

    with pytest.raises(ConfigError) as caught:
        load_yaml(file("low: 2\nhigh: 1"), Ordered)
    assert caught.value.problem == "low is above high"


def test_a_missing_file_names_those_that_are_there(file):
    path = file("rate: 1")
    with pytest.raises(ConfigError, match=r"no such file \(known here: config\)"):
        load_yaml(path.with_name("other.yaml"), Closed)
    with pytest.raises(ConfigError, match="known here: none"):
        load_yaml(path.parent / "nowhere" / "other.yaml", Closed)


def test_a_folder_in_place_of_a_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        load_yaml(tmp_path, Closed)


@pytest.mark.timeout(20)
def test_a_bomb_of_aliases_does_not_go_off(file):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError) as caught:
        load_yaml(file("\n".join(lines)), Closed)
    assert len(str(caught.value)) < 3000


# --- settings


@pytest.fixture
def clean(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("ROBUSTIDPS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ROBUSTIDPS_HOME", str(tmp_path))
    return tmp_path


def test_everything_lies_under_home(clean):
    made = make_settings()
    assert made.home == clean
    assert (
        made.tracking_uri == f"sqlite:///{clean / 'mlflow.db'}" and made.state_url == f"sqlite:///{clean / 'state.db'}"
    )
    assert made.folder("a", "b") == clean / "a" / "b" and (clean / "a" / "b").is_dir()


def test_arguments_win_over_the_environment_over_the_file_over_defaults(clean, monkeypatch):
    assert make_settings().author == "unknown"
    (clean / "settings.yaml").write_text("author: file\n")
    assert make_settings().author == "file"
    monkeypatch.setenv("ROBUSTIDPS_AUTHOR", "environment")
    assert make_settings().author == "environment"
    assert make_settings(author="argument").author == "argument"


def test_home_may_begin_with_a_tilde_and_becomes_absolute(clean, monkeypatch):
    monkeypatch.setenv("HOME", str(clean))
    assert make_settings(home="~/x").home == clean / "x"
    monkeypatch.chdir(clean)
    assert make_settings(home="y").home == clean / "y"


@pytest.mark.parametrize(
    "text", ["autor: me\n", "debug: perhaps\n", "- a\n", "author: [\n", "author: !!python/name:os.system\n"]
)
def test_a_mistake_in_the_settings_file_is_a_config_error(clean, text):
    (clean / "settings.yaml").write_text(text)
    with pytest.raises(ConfigError):
        make_settings()


def test_a_key_given_twice_in_the_settings_file_is_refused(clean):
    (clean / "settings.yaml").write_text("author: me\nauthor: you\n")
    with pytest.raises(ConfigError, match="given twice"):
        make_settings()


def test_a_bad_variable_is_named(clean, monkeypatch):
    monkeypatch.setenv("ROBUSTIDPS_DEBUG", "perhaps")
    with pytest.raises(ConfigError, match="debug"):
        make_settings()


def test_a_home_that_cannot_be_written_is_a_storage_error(clean, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(clean))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="read-only"):
        make_settings().folder("runs")


def test_settings_are_in_force_for_a_block_alone(clean):
    before = get_settings()
    with use_settings(Settings(home=clean / "other")) as inside:
        assert get_settings() is inside
    assert get_settings() is before


def test_settings_cannot_be_changed(clean):
    with pytest.raises(ValueError, match="frozen"):
        make_settings().author = "me"


def test_importing_the_settings_imports_nothing_heavy():
    heavy = "[m for m in ('numpy', 'onnx', 'torch') if m in sys.modules]"
    code = f"import sys, robustidps.settings, robustidps.errors; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and settings.CONFIGS.is_dir()
