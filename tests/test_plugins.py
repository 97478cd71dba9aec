"""A plugin runs only where the settings name its files by hash, only to train, and its mistakes carry its name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robustidps.errors import ConfigError, ModelValidationError
from robustidps.families import discover, family_settings, get_family
from robustidps.plugins import _CantBePinned, allow_line
from robustidps.settings import Settings, make_settings, use_settings
from robustidps.testing import check_family
from robustidps.testing.linear import Linear, TrainedLinear
from robustidps.testing.traffic import toy_traffic
from robustidps.training import train_bundle

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def site(example_plugin, tmp_path, monkeypatch) -> Path:
    """A copy of it that a test may edit, on Python's path; what was imported from it is forgotten."""
    target = Path(shutil.copytree(example_plugin, tmp_path / "site"))
    monkeypatch.syspath_prepend(target)
    monkeypatch.delitem(sys.modules, "robustidps_lda", raising=False)
    yield target
    sys.modules.pop("robustidps_lda", None)


def info():
    return discover()["lda"]


def allowed(home, *lines):
    return use_settings(Settings(home=home, plugins=lines))


def test_a_plugin_that_nobody_allowed_is_listed_with_its_line_and_not_imported(site, home):
    found = info()
    assert found.family is None and "not allowed" in found.problem and found.distribution == "robustidps-lda"
    assert found.allow.startswith("robustidps-lda==1.0.0:sha256-") and found.allow in found.remedy
    assert "robustidps_lda" not in sys.modules
    with pytest.raises(ConfigError, match=r"not allowed.*sha256-"):
        get_family("lda")
    assert discover()["neural_ode"].problem is None


def test_the_line_that_is_shown_allows_it(site, home):
    with allowed(home, info().allow):
        assert info().problem is None and get_family("lda").description


def test_the_example_conforms_and_becomes_a_bundle_that_is_opened_without_it(site, home, tmp_path, monkeypatch):
    with allowed(home, info().allow):
        family = get_family("lda")
        traffic = toy_traffic(900)
        train, validation = traffic.select(slice(0, 700)), traffic.select(slice(700, None))
        written = train_bundle(
            family, family_settings(family), train, validation, name="lda", version="1.0.0", out=tmp_path / "bundle"
        ).bundle
        assert written.metadata.family == "lda" and written.metadata.performance_metrics["val_accuracy"] > 0.8
        monkeypatch.setenv("PYTHONPATH", str(site))
        check_family(family, folder=tmp_path)
    code = """
import sys
from pathlib import Path
from robustidps.bundle import open_bundle
from robustidps.scoring import score
from robustidps.testing.traffic import toy_traffic
with open_bundle(Path(sys.argv[1])) as bundle:
    print(len(score(bundle, toy_traffic(50)).counts()))
print("robustidps_lda" in sys.modules)
"""
    monkeypatch.setenv("ROBUSTIDPS_PLUGINS", "any")
    monkeypatch.setenv("ROBUSTIDPS_HOME", str(home))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "bundle")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "False", "scoring imported a plugin"


@pytest.mark.parametrize(
    "edit",
    [
        lambda site: (site / "robustidps_lda.py").write_text("print('mine now')\n"),
        lambda site: (site / "robustidps_lda-1.0.0.dist-info" / "METADATA").open("a").write("x"),
        lambda site: (site / "robustidps_lda-1.0.0.dist-info" / "entry_points.txt").write_text(
            "[robustidps.families]\nlda = robustidps_lda:TrainedLDA\n"
        ),
    ],
    ids=["code", "metadata", "entry point"],
)
def test_an_edit_of_any_file_shuts_it_out(site, home, edit, capsys):
    with allowed(home, info().allow):
        edit(site)
        assert "aren't the ones" in info().problem and "robustidps_lda" not in sys.modules
    assert "mine now" not in capsys.readouterr().out


def test_who_installed_it_and_compiled_it_changes_nothing(site, home):
    line = info().allow
    (site / "robustidps_lda-1.0.0.dist-info" / "INSTALLER").write_text("another\n")
    shutil.rmtree(site / "__pycache__", ignore_errors=True)
    assert info().allow == line


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda d: (d / "direct_url.json").write_text('{"dir_info": {"editable": true}, "url": "file:///x"}'),
            "editable",
        ),
        (lambda d: (d / "direct_url.json").write_text('{"dir_info":{"editable":true}}'), "editable"),
        (lambda d: (d / "RECORD").unlink(), "list no files"),
        (lambda d: (d.parent / "robustidps_lda.py").unlink(), "can't be read"),
        (lambda d: (d / "RECORD").open("a").write("x.pth,,\n"), "Python's path"),
        (
            lambda d: (d / "entry_points.txt").write_text("[robustidps.families]\nlda = json:loads\n"),
            "isn't one of its own files",
        ),
        (lambda d: (d / "entry_points.txt").write_text("[robustidps.families]\nlda = nowhere:x\n"), "no module"),
    ],
    ids=["editable", "editable, terse", "no list", "a file gone", "a path file", "another's module", "no module"],
)
def test_what_no_hash_could_vouch_for_cannot_be_allowed(site, home, spoil, reason):
    line = info().allow
    spoil(site / "robustidps_lda-1.0.0.dist-info")
    with allowed(home, line):
        found = info()
    assert found.family is None and reason in found.problem
    with use_settings(Settings(home=home, plugins=("any",))):
        assert reason in ("can't be read", "no module") or "can't be allowed" not in (info().problem or "")


def test_a_file_that_is_gone_is_missed_whichever_library_reads_the_metadata(site):
    """The backport `importlib_metadata` takes over in any process that imports it, and leaves out what is gone."""
    backport = pytest.importorskip("importlib_metadata")
    (site / "robustidps_lda.py").unlink()
    with pytest.raises(_CantBePinned, match="can't be read"):
        allow_line(backport.distribution("robustidps-lda"))


def test_any_lets_it_in_and_the_doctor_warns(site, home):
    from robustidps.doctor import _families, _plugins

    with use_settings(Settings(home=home, plugins="any")) as settings:
        assert info().problem is None
        (finding,) = _plugins(settings)
        assert finding.status == "warn" and "production" in finding.remedy
    finding = next(f for f in _families() if f.what == "family lda")
    assert finding.status == "warn" and "sha256-" in finding.remedy


@pytest.mark.parametrize("value", ["robustidps-lda", "a==1", "a==1:sha256-xyz", "a==1:md5-" + "0" * 64, "ANY"])
def test_a_line_that_is_none_is_refused(value, monkeypatch, tmp_path):
    monkeypatch.setenv("ROBUSTIDPS_PLUGINS", value)
    with pytest.raises(ConfigError, match="neither NAME==VERSION:sha256-HEX nor `any`"):
        make_settings(home=tmp_path)


def test_the_environment_and_the_file_take_one_line_or_several(monkeypatch, tmp_path):
    lines = [f"{name}==1.0:sha256-{'0' * 64}" for name in ("a", "b-c")]
    (tmp_path / "settings.yaml").write_text(f"plugins:\n  - {lines[0]}\n  - {lines[1]}\n")
    assert make_settings(home=tmp_path).plugins == tuple(lines)
    for text in (" ".join(lines), ",".join(lines)):
        monkeypatch.setenv("ROBUSTIDPS_PLUGINS", text)
        assert make_settings(home=tmp_path / "other").plugins == tuple(lines)
    monkeypatch.setenv("ROBUSTIDPS_PLUGINS", "")
    assert make_settings(home=tmp_path / "other").plugins == ()


def test_a_distribution_is_called_what_pypi_calls_it(example_plugin):
    from importlib.metadata import Distribution

    dist = next(Distribution.discover(name="robustidps_lda", path=[str(example_plugin)]))
    assert allow_line(dist).startswith("robustidps-lda==1.0.0:")


def test_the_page_shows_the_example_as_it_is():
    source = (ROOT / "examples" / "robustidps-lda" / "robustidps_lda.py").read_text()
    project = (ROOT / "examples" / "robustidps-lda" / "pyproject.toml").read_text()
    page = (ROOT / "docs" / "plugins.md").read_text()
    blocks = re.findall(r"```(python|toml)\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 4
    for kind, block in blocks:
        assert block.strip() in (source if kind == "python" else project), block


# --- plugins that are loaded and then misbehave


def trained_as(**methods):
    """A family whose trained model has these methods in place of its own."""

    class Family(Linear):
        def train(self, settings, train, validation, context):
            trained = super().train(settings, train, validation, context)
            model = type("Model", (TrainedLinear,), methods)
            return model(trained.weights, trained.biases)

    return Family()


def probabilities(self, x):
    p = np.exp(TrainedLinear.logits(self, x))
    return p / p.sum(axis=1, keepdims=True)


def refuse(*unused):
    raise RuntimeError("no \x1b[2J licence")


class Raising(Linear):
    def train(self, settings, train, validation, context):
        refuse()


class Leaving(Linear):
    def train(self, settings, train, validation, context):
        sys.exit(0)


class Reading(Linear):
    def train(self, settings, train, validation, context):
        Path("/no/such/file").read_text()


class GivingNothing(Linear):
    def train(self, settings, train, validation, context):
        return None


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        (Raising(), "raised RuntimeError: no .*licence"),
        (Leaving(), "raised SystemExit"),
        (Reading(), "raised FileNotFoundError"),
        (GivingNothing(), "train.. gave a NoneType"),
        (trained_as(logits=lambda self, x: TrainedLinear.logits(self, x)[:, :2]), "its logits are float32"),
        (trained_as(logits=lambda self, x: x[:, 0] * np.nan), "its logits are"),
        (trained_as(logits=lambda self, x: "high"), "its logits are"),
        (trained_as(logits=lambda self, x: TrainedLinear.logits(self, x) * np.nan), "aren't finite .row 0"),
        (trained_as(logits=probabilities), r"between 0 and 1 \(rows add up to 1 to 1\)"),
        (
            trained_as(logits=lambda self, x: 1 / (1 + np.exp(-TrainedLinear.logits(self, x)))),
            "between 0 and 1",
        ),
        (trained_as(logits=refuse), "raised RuntimeError"),
        (trained_as(export_onnx=refuse), "raised RuntimeError"),
        (trained_as(save_native=refuse), "raised RuntimeError"),
    ],
)
def test_a_plugin_that_misbehaves_in_training_is_named_and_nothing_is_written(family, reason, tmp_path):
    traffic = toy_traffic(300)
    with pytest.raises(ModelValidationError, match=reason) as caught:
        train_bundle(
            family, family.settings(), traffic, traffic, name="linear", version="1.0.0", out=tmp_path / "bundle"
        )
    assert caught.value.where.startswith("family linear (") and "\x1b" not in caught.value.problem
    assert not list(tmp_path.iterdir())


def test_a_training_that_is_cancelled_is_nobodys_fault(tmp_path):
    class Cancelled(Exception):
        pass

    def cancel(number, total, metrics):
        raise Cancelled

    traffic = toy_traffic(300)
    with pytest.raises(Cancelled):
        train_bundle(
            Linear(),
            Linear.settings(),
            traffic,
            traffic,
            name="l",
            version="1.0.0",
            out=tmp_path / "b",
            on_epoch=cancel,
        )


def test_a_full_disk_is_not_the_plugins_fault(tmp_path):
    def full(self, folder):
        raise OSError(28, "No space left on device")

    traffic = toy_traffic(300)
    with pytest.raises(Exception, match="the disk is full"):
        family = trained_as(save_native=full)
        train_bundle(family, family.settings(), traffic, traffic, name="l", version="1.0.0", out=tmp_path / "b")
    assert not list(tmp_path.iterdir())
