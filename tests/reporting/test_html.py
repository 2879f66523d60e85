"""Pieces of the page: text is never a tag, tables are whole, pictures are inside."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskdiff_jax.reporting import html
from tests.reporting.example_runs import parse_page


@settings(max_examples=20)
@given(st.text(max_size=20))
@example("<script>alert(1)</script>")
@example("a & b \ud800 \"quoted\" 'x'")
def test_any_text_stays_text(value):
    page = html.page(value, [html.section(value, html.bullets([value]), note=value), html.details(value, "")])
    page.encode("utf-8")
    got = parse_page(page)
    assert got.links == ["data:,"]
    as_html = value.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n")
    if "\0" not in value:
        assert got.text.replace("\r\n", "\n").replace("\r", "\n").count(as_html) >= 4


def test_table():
    headers = [[("", 1), ("wide", 2)], [("", 1), ("a", 1), ("b<c", 1)]]
    page = html.page("t", [html.table(headers, [["row", "1", "<b>2</b>"]], group_starts=[1])])
    got = parse_page(page)
    assert "widea" in got.text and "b<c" in got.text
    assert page.count('colspan="2"') == 1
    assert page.count('th class="group"') == 2 and page.count('td class="group"') == 1


def test_pictures_are_inside_the_page():
    page = html.page("t", [html.grid([html.picture(b"123", 'a "b"', scroll=True)])])
    got = parse_page(page)
    assert got.links == ["data:,", "data:image/png;base64,MTIz"] and 'class="scroll"' in page


def test_bar_has_the_length_of_its_percentage():
    assert "width:64px" in html.bar(100.0, novel=False) and "width:1px" in html.bar(0.0, novel=False)
    assert 'class="bar novel"' in html.bar(50.0, novel=True) and "width:32px" in html.bar(50.0, novel=True)


def test_tiles():
    assert parse_page(html.page("", [html.tiles([("1.0", "%", "AP <x>")])])).text.rstrip().endswith("\n1.0 %AP <x>")


def test_broad_pages():
    assert "<main class=broad>" in html.page("t", ["x"], broad=True) and "<main>" in html.page("t", ["x"])
