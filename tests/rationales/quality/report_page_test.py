"""The HTML page: what it holds, and that hostile texts stay texts."""

import html
import html.parser
import json
import re

import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Rationale, Record
from dss_jax.rationales import rationale_selection
from dss_jax.rationales.quality import quality_measures, report_page
from dss_jax.rationales.teacher_answers import TeacherAnswer

HOSTILE = (
  "</script><script>window.hacked = 1</script>",
  "<img src=x onerror='window.hacked = 1'>",
  "<!--<script>",
  "]]>&lt;b&gt;&amp;",
  "\"'`${window.hacked = 1}{{policy}}{{data}}",
  "javascript:window.hacked=1",
  "\u2028\u2029\u202e\u200b\U0001f642",
  "__proto__",
)


def _records() -> list[Record]:
  """Three fine ones, one that fails, one whose vote is not gold."""
  why = Rationale("a reason", "yes", "big")
  return [
    Record("fine-0", "is it?", "yes", (why,)),
    Record("fine-1", "is it cheese?", "yes", (why,)),
    Record("fine-2", "is it not?", None, (why,)),
    Record(
      "failed-0",
      "what?",
      "no",
      (
        Rationale(
          "",
          None,
          "small",
          0.0,
          "truncated",
          {"completion": "It is be", "model": "small-1"},
        ),
      ),
    ),
    Record("wrong-0", "really?", "no", (why,)),
  ]


def _hostile() -> list[Record]:
  return [
    Record(
      f"{text} {i}",
      f"{text} input",
      text,
      (
        Rationale(text, text, text, 0.5, text, {"completion": text, text: text}),
        Rationale(text, "x", "x", 0.5, "ok"),
      ),
      meta={
        text: [text],
        "choosing": {"votes": [[text, 0.9], ["x", 0.1]], "teachers": {text: {"answers": 1, "model": text, "statuses": {text: 1}}}, "left_out": {text: 1}},
      },
    )
    for i, text in enumerate(HOSTILE)
  ]  # fmt: skip


def _page(records, path=None, **fields):
  sample = report_page.PageSample(
    **{k: fields.pop(k) for k in ("max_records", "max_bytes") if k in fields}
  )
  for record in records:
    sample.add(record)
  report = quality_measures.of_records(records)
  if path is None:
    return report_page.render(report, sample, **fields)
  report_page.write_page(path, report, sample, **fields)
  return path


def _data(page: str):
  match = re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)
  assert match
  return json.loads(match[1])


class _Tags(html.parser.HTMLParser):
  def __init__(self, page: str):
    super().__init__()
    self.tags: list[tuple[str, dict]] = []
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))


# --- what it holds -----------------------------------------------------------


def test_failures_come_first():
  data = _data(_page(_records()))
  assert [record["id"] for record in data["records"]] == [
    "failed-0",
    "wrong-0",
    "fine-0",
    "fine-1",
    "fine-2",
  ]
  assert data["kinds"] == {"failed": 1, "disagrees": 1, "fine": 3}
  failed = data["records"][0]["rationales"][0]
  assert failed["completion"] == "It is be"
  assert failed["facts"] == [["model", "small-1"]]


def test_the_sample_is_bounded_and_says_so():
  records = [
    Record(f"{kind}-{i}", "input", gold, (Rationale("r", label, status=status),))
    for i in range(100)
    for kind, gold, label, status in (
      ("failed", "a", None, "no_marker"),
      ("wrong", "a", "b", "ok"),
      ("fine", "a", "a", "ok"),
    )
  ]  # fmt: skip
  data = _data(_page(records, max_records=50))
  assert data["held"] == {"failed": 30, "disagrees": 10, "fine": 10}
  assert data["kinds"] == {"failed": 100, "disagrees": 100, "fine": 100}
  ids = [record["id"] for record in data["records"]]
  numbers = [int(name.split("-")[1]) for name in ids]
  assert numbers[:30] == sorted(numbers[:30])
  assert max(numbers) > 50  # not just the first ones
  # Fewer failures leave room for others.
  data = _data(_page(records[:30] + records[1::3], max_records=60))
  assert data["held"] == {"failed": 10, "disagrees": 40, "fine": 10}


def test_long_texts_are_cut():
  long = "word " * 50_000
  record = Record(
    "a",
    long,
    "yes",
    tuple(
      Rationale(long, "yes", "t", 1.0, "ok", {"completion": long, "x": [long]})
      for _ in range(100)
    ),
    meta={str(i): long for i in range(50)},
  )
  page = _page([record] * 1)
  assert len(page) < 120_000
  (shown,) = _data(page)["records"]
  assert shown["input"].endswith("… [246,000 more characters]")
  assert 0 < len(shown["rationales"]) < 10
  assert shown["more"] == 100 - len(shown["rationales"])
  many = [Record(f"r{i}", long) for i in range(100)]
  assert len(_page(many, max_bytes=50_000)) < 120_000


def test_the_order_of_records_does_not_decide_which_are_held():
  records = [Record(f"r{i}", "i", "a") for i in range(60)]
  held = _data(_page(records, max_records=10))["records"]
  other = _data(_page(records[::-1], max_records=10))["records"]
  assert {r["id"] for r in held} == {r["id"] for r in other}


# --- hostile texts -----------------------------------------------------------


def test_nothing_in_the_data_is_markup():
  plain = _Tags(_page(_records(), title="t"))
  hostile = _page(_hostile(), title=HOSTILE[0], subtitle=HOSTILE[1])
  assert _Tags(hostile).tags[5:] == plain.tags[5:]
  assert len(_Tags(hostile).tags) == len(plain.tags)
  data = _data(hostile)
  assert {r["input"] for r in data["records"]} == {
    f"{t} input" for t in HOSTILE
  }
  assert f'<h1 id="title">{html.escape(HOSTILE[0])}</h1>' in hostile


def test_the_policy_allows_only_the_pages_own_script_and_style():
  tags = _Tags(_page(_records())).tags
  policy = next(
    attributes["content"]
    for tag, attributes in tags
    if attributes.get("http-equiv") == "Content-Security-Policy"
  )
  assert policy.startswith("default-src 'none'; script-src 'sha256-")
  assert "unsafe" not in policy
  for tag, attributes in tags:
    assert not {"src", "href", "style", "onclick"} & set(attributes), tag


def test_writing(tmp_path):
  path = tmp_path / "report.html"
  _page(_records(), path)
  assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
  with pytest.raises(UserError, match="cannot write"):
    _page(_records(), tmp_path / "no" / "report.html")


# --- in a real browser -------------------------------------------------------


@pytest.mark.slow
def test_the_browser_of_records(page, tmp_path):
  """Load, filter, search, step and clear, by mouse and keyboard."""
  page.look(1280, 900)
  page.open(_page(_records(), tmp_path / "report.html", title="cqa, train"))
  assert page.complaints() == []

  def shown():
    return page.js("document.querySelector('#record h3')?.textContent")

  def listed():
    return page.js("document.querySelectorAll('#list button').length")

  assert page.js("document.title") == "cqa, train · rationales"
  assert page.js("document.querySelectorAll('#tiles .tile').length") == 5
  assert "Parse rate80.0 %4 of 5" in page.js("byId('tiles').textContent")
  assert page.js("document.querySelectorAll('.bars button').length") == 2
  assert page.js("document.querySelectorAll('svg.histogram').length") >= 1
  assert page.js("byId('held').textContent").startswith("All 5 records")
  assert (shown(), listed()) == ("failed-0", 5)
  assert page.js("document.querySelector('details').open") is True

  page.press("j")
  assert shown() == "wrong-0"
  page.press("ArrowRight")
  assert shown() == "fine-0"
  page.press("k")
  assert shown() == "wrong-0"
  assert page.js("byId('count').textContent") == "Record 2 of 5"

  page.press("/")
  assert page.js("document.activeElement.id") == "search"
  page.call("Input.insertText", text="CHEESE")
  assert (shown(), listed()) == ("fine-1", 1)
  assert (
    page.js("document.querySelector('#record mark').textContent") == "cheese"
  )
  page.call("Input.insertText", text=" and j")
  assert listed() == 0
  assert page.js("byId('count').textContent").startswith("No record of the 5")
  page.press("Escape")
  assert (shown(), listed()) == ("failed-0", 5)

  # A bar of the chart filters.
  page.js("[...document.querySelectorAll('.bars button')].at(-1).click()")
  assert page.js("byId('status').value") == "truncated"
  assert (shown(), listed()) == ("failed-0", 1)
  page.js("byId('clear').click()")
  page.js(
    "byId('agreement').value = 'disagrees';"
    "byId('agreement').dispatchEvent(new Event('change'))"
  )
  assert (shown(), listed()) == ("wrong-0", 1)
  assert page.js("byId('next').disabled") is True
  assert page.complaints() == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_and_can_be_read(page, tmp_path, size, dark):
  page.look(*size, dark=dark)
  page.open(_page(_records() + _hostile(), tmp_path / "report.html"))
  assert page.js("document.documentElement.scrollWidth") <= size[0]
  background = page.js("getComputedStyle(document.body).backgroundColor")
  first = int(re.findall(r"\d+", background)[0])
  assert (first < 60) == dark
  page.screenshot(tmp_path / "page.png")
  assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_page_without_records(page, tmp_path):
  path = tmp_path / "empty.html"
  _page([], path)
  page.open(path)
  page.press("j")
  assert page.js("byId('record').textContent") == "This page holds no records."
  assert page.complaints() == []


@pytest.mark.slow
def test_hostile_texts_do_nothing_in_a_browser(page, tmp_path):
  records = _hostile()
  path = _page(
    records, tmp_path / "x.html", title=HOSTILE[0], subtitle=HOSTILE[1]
  )
  page.open(path)
  for _ in records:
    page.press("j")
  for text in HOSTILE:
    page.js(
      f"byId('search').value = {json.dumps(text.strip())}; applyFilters()"
    )
    assert page.js("matching.length") >= 1
  page.js("clearFilters(); applyFilters()")
  for name in ("status", "teacher", "label"):
    count = page.js(f"byId('{name}').options.length")
    for i in range(1, count):
      page.js(f"byId('{name}').selectedIndex = {i}; applyFilters()")
      assert page.js("matching.length") >= 1
    page.js("clearFilters(); applyFilters()")
  assert page.js("window.hacked") is None
  assert page.js("document.querySelectorAll('img, iframe, a').length") == 0
  assert page.js("document.scripts.length") == 2
  assert page.complaints() == []
  # The policy itself holds: a script put there by hand does not run.
  page.js(
    "try { document.body.innerHTML += '<img src=x onerror=\"hacked=1\">' }"
    " catch (e) { window.refused = String(e) }"
  )
  assert "TrustedHTML" in page.js("window.refused")
  assert page.js("window.hacked") is None


def test_choices_made_by_choosing_are_shown():
  record = Record("a", "i", "zoo", meta={"page": 3})
  answers = [
    TeacherAnswer(
      f"k{i}", "big", "m", i, rationale_selection.Parsed("so", label)
    )
    for i, label in enumerate(["zoo", "pond", "zoo"])
  ]
  record = rationale_selection.choose(
    record,
    answers,
    rationale_selection.ChooseOptions(),
    quality_measures.same_words,
  )
  (shown,) = _data(_page([record]))["records"]
  assert shown["votes"] == [["zoo", 2 / 3], ["pond", 1 / 3]]
  assert shown["agrees"] is True
  assert shown["meta"] == [["page", "3"]]  # the account itself is not repeated
  assert [r["agrees"] for r in shown["rationales"]] == [True, False, True]
