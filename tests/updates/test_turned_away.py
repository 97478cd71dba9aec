"""What was refused before it became a version here is in the ledger like any decision, and nothing stumbles over it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from robustidps import cli, notifying, pages, settings
from robustidps.cli import _app
from robustidps.errors import NotFoundError
from robustidps.monitoring.reviews import anchor_version, reviews
from robustidps.registry.reconciler import reconcile
from robustidps.retention import collect
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import APPROVE, memory_registry


@pytest.fixture
def registry(tmp_path):
    """toy 1.0.0 in production, with refusals of a version that isn't here, of a whole registry, of another model."""
    made = memory_registry(tmp_path / "home")
    made.register_model("toy", "1.0.0", toy_bundle(tmp_path / "b", version="1.0.0").path)
    made.transition("toy", "1.0.0", "Production", verdict=APPROVE)
    made.turn_away("toy", "1.1.0", reasons=["isn't safe to load"], evidence={"digest": "a" * 64})
    made.turn_away("toy", None, reasons=["timestamp.json: has expired"], verdict="hold")
    made.turn_away("elsewhere", "2.0.0", reasons=["no"])
    made.turn_away("elsewhere", None, reasons=["no"])
    return made


def test_the_ledger_checks_out_and_shows_them(registry):
    assert registry.verify().records == 6 and registry.verify("elsewhere").ok
    shown = json.dumps(pages.history(registry, None).rows, default=str)
    assert "turn_away" in shown and "has expired" in shown and "elsewhere" in shown
    assert len(pages.history(registry, "elsewhere").rows) == 2


def test_they_make_no_model_and_no_version_and_move_nothing(registry):
    assert [m.name for m in registry.models()] == ["toy"]
    assert [r.version for r in registry.versions("toy")] == ["1.0.0"]
    assert registry.assignment("toy").production == registry.resolve("toy").version == "1.0.0"
    with pytest.raises(NotFoundError):
        registry.versions("elsewhere")
    with pytest.raises(NotFoundError):
        registry.load_model("elsewhere", "latest")
    assert registry.production_at("toy", datetime.now(UTC)).action == "promote"
    assert registry.frozen("elsewhere") is None and registry.pinned("elsewhere") is None


def test_mlflow_picture_reconciler_retention_and_reviews_cope(registry):
    registry.ensure_projected()
    assert registry.repair() == [] and reconcile(registry) == []
    registry.tracking.client.set_registered_model_alias("toy", "staging", "1")
    assert [a.outcome for a in reconcile(registry)] == ["put back"]
    collect(registry)
    decisions = registry.checked_history("toy")
    assert anchor_version(decisions) == "1.0.0" and reviews(decisions) == {}
    assert registry.verify().ok
    later = toy_bundle(registry.settings.home / "e", name="elsewhere", version="2.0.0")
    registry.register_model("elsewhere", "2.0.0", later.path)
    registry.transition("elsewhere", "2.0.0", "Production", verdict=APPROVE)  # a person may take it all the same
    assert registry.verify().ok


def test_people_are_told(registry):
    told = [m for d in registry.history() if (m := notifying.message(d)) is not None]
    assert [m.kind for m in told] == ["update_turned_away"] * 4
    assert told[0].subject == "an update of toy to 1.1.0 was turned away"
    assert told[1].subject == "updates of toy: the remote registry was turned away"
    assert "- isn't safe to load" in told[0].text and told[1].facts["version"] is None


@pytest.mark.parametrize(
    "words", [["history"], ["history", "toy"], ["history", "elsewhere"], ["history", "--verify"], ["models"]]
)
def test_the_commands_that_show_things_cope(registry, words, monkeypatch, capsys):
    monkeypatch.setattr(_app, "given", {})
    monkeypatch.setattr(settings, "_current", None)
    monkeypatch.setenv("ROBUSTIDPS_HOME", str(registry.settings.home))
    for more in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["robustidps", *words, *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, capsys.readouterr().err
