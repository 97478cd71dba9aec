"""A class, data set, note or description that is written as HTML stays text on the evaluation page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustidps.evaluation.background import Background
from robustidps.evaluation.base_rates import base_rates
from robustidps.evaluation.markup import Markup, document, element, picture
from robustidps.evaluation.page import write_page
from robustidps.evaluation.report import ClassFigures, Evaluation, Interval

EVIL = """</td></table></style></title><script>window.pwned=1</script><img src=x onerror="window.pwned=1">'"&amp;"""
KNOWN = {"a", "body", "caption", "code", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "h1", "h2", "head"}
KNOWN |= {"header", "html", "img", "li", "main", "meta", "meter", "nav", "p", "pre", "section", "span", "style"}
KNOWN |= {"summary", "table", "tbody", "td", "th", "thead", "title", "tr", "ul"}


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def evaluation(word: str) -> Evaluation:
    figures = ClassFigures(precision=0.5, recall=Interval(value=0.5, low=0.4, high=0.6), f1=0.5, support=10)
    headline = {
        "alert_recall": Interval(value=0.5),
        "alert_false_positive_rate": Interval(value=0.1),
        word: Interval(value=1),
    }
    return Evaluation(
        model=word, version=word, bundle_digest=word, dataset=word, data_digest=word, rows=20, time_from=None,
        time_to=None, classes={"Benign": figures, word: figures}, confusion=[[5, 5], [5, 5]], headline=headline,
        figures={f"{word} too": 1.0}, blocks=word, n_blocks=1, resamples=1, seed=0, notes=[word],
    )  # fmt: skip


def page(word: str, folder: Path) -> str:
    e = evaluation(word)
    background = Background(word, word, word, word, "drift.html")
    return write_page(e, folder, rates=base_rates(e, 48), background=background).read_text(encoding="utf-8")


def test_markup_in_every_word_is_inert(tmp_path):
    text = page(EVIL, tmp_path)
    assert "<script" not in text and "<img" not in text
    found = Tags(text)
    assert {tag for tag, _ in found.seen} <= KNOWN
    assert not any(name.startswith("on") for _, attributes in found.seen for name in attributes)
    assert found.text.count("window.pwned") > 10  # said, and not done


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "https://example.org/x", "//example.org/x", "data:text/html,x"]
)
def test_a_drift_report_is_a_path_and_never_another_scheme(link, tmp_path):
    e = evaluation("x")
    text = write_page(
        e, tmp_path, rates=base_rates(e, 48), background=Background(drift="d", drift_page=link)
    ).read_text()
    [href] = [a["href"] for tag, a in Tags(text).seen if tag == "a" and not a["href"].startswith("#")]
    assert ":" not in href and not href.startswith("//")


@pytest.mark.parametrize("word", ["\u202egnp.exe", "a\x00b", "a\x1b[31mb", "\ud800"])
def test_control_and_format_characters_do_not_reach_the_page(word, tmp_path):
    text = page(word, tmp_path)
    assert not set(text) & {"\u202e", "\x00", "\x1b", "\ud800"} and "?" in text


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_a_word_is_it_adds_no_element_and_no_attribute(text, value):
    found = Tags(element("p", text, title=value)).seen
    assert [(tag, list(attributes)) for tag, attributes in found] == [("p", ["title"])]


def test_nothing_but_elements_is_taken_for_markup():
    assert element("p", "<b>") == "<p>&lt;b&gt;</p>"
    assert element("p", element("b", "&")) == "<p><b>&amp;</b></p>"
    assert not isinstance(Markup("<b>") + "<i>", Markup)  # put together by hand, it is text again
    assert "onload" not in [n for _, a in Tags(picture(b"", '" onload="x')).seen for n in a]


def test_the_policy_comes_first_and_allows_one_style_sheet_alone():
    text = document("t", "p { color: red }", element("p", "x"))
    policy = Tags(text).seen[3][1]  # html, head, meta charset, meta policy
    assert policy["http-equiv"] == "Content-Security-Policy"
    rules = dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:" and "script-src" not in rules
    assert rules["style-src"].startswith("'sha256-") and "unsafe" not in policy["content"]
