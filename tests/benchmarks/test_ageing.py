"""The ageing benchmark, small: simulated captures through the extractor, every policy, table and picture."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import ageing
from robustidps.evaluation.report import Interval
from tests.conftest import missing_part


@pytest.mark.real
def test_the_quick_form_runs_every_policy_and_says_how_the_loop_compares(
    home, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if find_spec("lightgbm") is None or find_spec("nfstream") is None:
        missing_part("lightgbm or NFStream is not installed")
    picture = tmp_path / "ageing.png"
    words = ["--quick", "--keep", str(tmp_path), "--processes", "1", "--picture", str(picture)]
    assert ageing.main(words) == 0
    said = capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    header = next(line for line in said.splitlines() if line.startswith("| lightgbm"))
    assert [cell.strip() for cell in header.split("|")[2:-1]] == [
        "frozen", "retrained weekly", "retrained daily", "our loop",
    ]  # fmt: skip
    assert "AUT of macro-F1" in said and "our loop minus" in said
    assert all(f"*{other}*" in said for other in ("frozen", "retrained weekly", "retrained daily"))


@pytest.mark.parametrize("words", [["--quick"], ["--scenario", "development"], ["--family", "lightgbm"]])
def test_the_page_is_not_overwritten_with_other_figures(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        ageing.main([*words, "--write"])
    assert "the page's own figures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gap", "metric", "word"),
    [
        (Interval(value=0.02, low=0.01, high=0.03), "macro_f1", "better"),
        (Interval(value=-0.02, low=-0.03, high=-0.01), "macro_f1", "**worse**"),
        (Interval(value=0.02, low=0.01, high=0.03), "false_positive_rate", "**worse**"),
        (Interval(value=-0.02, low=-0.03, high=-0.01), "false_positive_rate", "better"),
        (Interval(value=0.02, low=-0.01, high=0.05), "detection_rate", "no clear difference"),
        (Interval(value=0.02), "detection_rate", "unknown"),
        (Interval(value=None), "detection_rate", "unknown"),
    ],
)
def test_the_text_says_what_the_interval_says(gap: Interval, metric: str, word: str) -> None:
    said = ageing.sentence("retrained daily", {metric: gap}, [4, 84])
    assert said.endswith(f"rate {word}." if "rate" in metric else f"F1 {word}.")
    assert "(4.0 trainings against 84.0)" in said
