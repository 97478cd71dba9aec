"""The table of all families, small: two families become bundles, are judged and timed, and a second run reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import families
from robustidps.testing.traffic import toy_traffic
from robustidps.traffic.splits import shuffled_split

pytest.importorskip("lightgbm")
pytest.importorskip("torch")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    split = shuffled_split(toy_traffic(900))
    monkeypatch.setattr(families, "splits", lambda *given: [("toy", "toy traffic", split)])


def words(tmp_path: Path) -> list[str]:
    return ["--only", "boosted_trees", "neural_ode", "--seeds", "2", "--keep", str(tmp_path), "--data-dir", "nowhere"]


@pytest.mark.long
def test_each_family_has_its_row_and_a_second_run_trains_nothing(
    toy: None, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert families.main(words(tmp_path)) == 0
    said = capsys.readouterr().out
    for name in ("boosted_trees", "neural_ode", "unified"):
        rows = [line for line in said.splitlines() if line.startswith(f"| {name} ")]
        assert len(rows) == 3, said  # figures over seeds, one seed with intervals, costs
        assert all("nan" not in row for row in rows)
    costs = next(line for line in reversed(said.splitlines()) if line.startswith("| boosted_trees "))
    assert all(float(cell.replace(",", "")) > 0 for cell in costs.split("|")[2:-1])
    monkeypatch.delattr(families, "train_bundle")
    assert families.main(words(tmp_path)) == 0
    again = capsys.readouterr().out
    assert again.partition("What it costs")[0] == said.partition("What it costs")[0]


@pytest.mark.parametrize("some", [["--only", "neural_ode"], ["--rows", "100"], ["--seeds", "1"]])
def test_the_page_takes_whole_tables_alone(some: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        families.main([*some, "--write"])
    assert "the page's own figures" in capsys.readouterr().err
