"""The report as one page: what it holds, hostile texts, a real browser."""

import html.parser
import json
import re

import made_runs
import pytest

from dss_jax.experiments.report import label_confusions, report_writer
from dss_jax.experiments.report.finished_runs import read_run
from dss_jax.experiments.report.run_groups import group_runs

HOSTILE = (
  "</script><script>window.hacked = 1</script>",
  "</table><img src=x onerror='window.hacked = 1'>",
  "{{policy}}{{data}} \u2028\u202e &lt;b&gt;",
  "word " * 20_000,
  "",
)


def _runs(folder, **more):
  """Two seeds of two methods, and a run that is not finished."""
  for seed in (0, 1):
    for method, accuracy in (("standard", 0.5), ("dss", 0.8)):
      made_runs.make_run(
        folder / f"{method}{seed}",
        method=method,
        seed=seed,
        test=more.get("test", accuracy),
        rate=0.02 if method == "standard" else 0.04,
      )
  made_runs.make_run(folder / "unfinished", seed=7)
  (folder / "unfinished/results.jsonl").unlink()
  return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp("report")
  return report_writer.write([_runs(folder / "runs")], folder / "out")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
  folder = tmp_path_factory.mktemp("hostile")
  runs = _runs(folder / "runs", test=lambda target, i: HOSTILE[i % 5])
  return report_writer.write([runs], folder / "out")


def _text(written):
  return written.files[0].read_text(encoding="utf-8")


def _data(page):
  found = re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)
  assert found
  return json.loads(found[1])


class _Tags(html.parser.HTMLParser):
  def __init__(self, page: str):
    super().__init__()
    self.tags: list[tuple[str, dict]] = []
    self.open: list[str] = []
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in ("meta", "input", "br"):
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


# --- what it holds -----------------------------------------------------------


def test_the_page_needs_nothing_else(written):
  page = _text(written)
  tags = _Tags(page)
  assert tags.open == []
  for tag, attributes in tags.tags:
    assert not {"src", "style", "onclick", "action"} & set(attributes), tag
    assert attributes.get("href", "#").startswith("#")
  assert sum(tag == "script" for tag, _ in tags.tags) == 2
  assert "unsafe" not in page


def test_every_table_and_the_answer_stand_in_it_without_a_script(written):
  page = _text(written)
  body = page[: page.index('<script id="data"')]
  assert written.findings[0].verdict in body
  for title in (
    "Test accuracy of each setting",
    "Methods compared",
    "Every run",
    "Runs that are not part of this report",
    "Which labels are taken for which",
  ):
    assert title in body
  # What differs comes first, the rest is there.
  settings = body[body.index("settings in which runs differ") :]
  first, shared = settings.split("settings that all runs share")
  assert "BASE_LEARNING_RATE" in first
  assert "DataOptions.label_spelling" in shared


def test_the_files_beside_it_hold_the_same_numbers(written):
  by_name = {path.name: path for path in written.files}
  numbers = json.loads(by_name["report.json"].read_text())
  [row] = numbers["tables"]["comparisons"]["rows"]
  columns = numbers["tables"]["comparisons"]["columns"]
  found = dict(zip(columns, row, strict=True))
  result = written.content.comparisons[0].result
  assert found["difference, points"] == result.difference
  assert numbers["findings"][0]["helps"] == written.findings[0].helps
  assert {"settings.md", "settings.csv", "settings.tex"} <= by_name.keys()


def test_items_come_with_every_answer(written):
  data = _data(_text(written))
  assert data["settings"] == ["fine-tuning", "distilling step-by-step"]
  assert len(data["records"]) == data["total"] == 60
  test = written.content.groups[0].runs[0].test
  for item in data["records"]:
    number = test.ids.index(item["id"])
    assert item["label"] == test.targets[number]
    for index, answers in item["answers"]:
      runs = written.content.groups[index].runs
      assert sum(seeds for _, seeds, _ in answers) == 2
      for text, seeds, right in answers:
        given = [run.test.predictions[number] for run in runs]
        assert given.count(text) == seeds
        assert right == (text == item["label"])
  kinds = {item["kind"] for item in data["records"]}
  assert {"differ", "right", "wrong"} <= kinds
  # Without the prefix that only one method has.
  assert not data["records"][0]["input"].startswith("[label]")


def test_a_page_that_would_be_too_large_says_what_it_holds(written):
  from dss_jax.experiments.report import answered_items

  whole = answered_items.for_page(written.content)
  part = answered_items.for_page(written.content, max_bytes=1500)
  assert part["total"] == 60
  assert 0 < len(part["records"]) < 30
  assert {item["kind"] for item in part["records"]} == {"differ"}
  assert all(item in whole["records"] for item in part["records"])


def test_each_seed_with_its_own_items_has_them_in_the_browser(tmp_path):
  for seed in (0, 1):
    made_runs.make_run(
      tmp_path / f"runs/{seed}", seed=seed, data={"taxonli_seed": seed}
    )
  found = report_writer.write([tmp_path / "runs"], tmp_path / "out")
  data = _data(_text(found))
  assert data["total"] == 120
  assert data["records"][0]["id"] == "test-0, seed 0"
  assert "each seed has test items of its own" in found.content.notes[0]


def test_the_matrix_counts_answers_by_gold_label(tmp_path):
  right = made_runs.answers(0.7, seed=0)
  made_runs.make_run(
    tmp_path / "a", test=lambda target, i: right(target, i) if i % 5 else "?"
  )
  run = read_run(tmp_path / "a")
  [group], _ = group_runs([run])
  found = label_confusions.of_group(group)
  assert found is not None
  assert found.labels == ("entailment", "neutral", "contradiction")
  for row, gold in zip(found.counts, found.labels, strict=True):
    for column, label in zip(row, [*found.labels, "?"], strict=True):
      pairs = zip(run.test.targets, run.test.predictions, strict=True)
      assert column == sum(pair == (gold, label) for pair in pairs)


# --- hostile texts -----------------------------------------------------------


def test_nothing_in_the_data_is_markup(written, hostile):
  page = _text(hostile)
  tags = _Tags(page)
  assert tags.open == []
  assert sum(tag == "script" for tag, _ in tags.tags) == 2
  assert not any(tag == "img" for tag, _ in tags.tags)
  assert len(page) < 600_000  # long answers are cut
  texts = {
    text
    for item in _data(page)["records"]
    for _, answers in item["answers"]
    for text, _, _ in answers
  }
  assert set(HOSTILE[:3]) <= texts


# --- in a real browser -------------------------------------------------------


@pytest.mark.slow
def test_items_are_found_by_filters_and_keys(page, written):
  page.look(1280, 900)
  page.open(written.files[0])
  assert page.complaints() == []

  def listed():
    return page.js("document.querySelectorAll('#list button').length")

  def choose(name, value):
    page.js(
      f"byId('{name}').value = {json.dumps(value)};"
      f"byId('{name}').dispatchEvent(new Event('change'))"
    )

  assert listed() == 60
  data = _data(_text(written))
  differ = sum(item["kind"] == "differ" for item in data["records"])
  choose("kind", "differ")
  assert listed() == differ
  page.press("Escape")
  assert listed() == 60

  # Where distilling is right and fine-tuning is wrong.
  choose("rightly", "s 1")
  choose("wrongly", "s 0")
  shown = page.js("matching.map((record) => record.id)")
  groups = written.content.groups
  wrong = [run.test.correct for run in groups[0].runs]
  right = [run.test.correct for run in groups[1].runs]
  assert shown == [
    item
    for i, item in enumerate(groups[0].runs[0].test.ids)
    if sum(each[i] for each in right) > 1 and sum(e[i] for e in wrong) <= 1
  ]
  page.press("Escape")
  page.press("j")
  assert page.js("byId('count').textContent") == "Item 2 of 60"
  assert page.js("document.querySelector('#record h3').textContent") == "test-1"
  rows = page.js("document.querySelectorAll('#record tbody tr').length")
  assert rows >= 2
  page.press("/")
  page.call("Input.insertText", text="test-42")
  assert listed() == 1
  assert page.complaints() == []


@pytest.mark.slow
def test_a_table_scrolls_by_keyboard_and_no_item_is_skipped(page, written):
  page.look(390, 844)
  page.open(written.files[0])
  page.js(
    "document.querySelectorAll('details').forEach((d) => (d.open = true))"
  )
  page.js("document.querySelector('.scroll').focus()")
  page.press("ArrowRight")
  assert page.js("byId('count').textContent") == "Item 1 of 60"
  page.press("j")  # letters are keys of the table's page only outside of it
  assert page.js("byId('count').textContent") == "Item 1 of 60"


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_and_can_be_read(page, hostile, size, dark):
  page.look(*size, dark=dark)
  page.open(hostile.files[0])
  page.js(
    "document.querySelectorAll('details').forEach((d) => (d.open = true))"
  )
  for _ in range(5):
    page.press("j")
    assert page.js("document.documentElement.scrollWidth") <= size[0]
  assert page.js(_LOW_CONTRAST) == []
  assert page.complaints() == []


# Texts whose contrast with what lies behind them is below 4.5.
_LOW_CONTRAST = """
(() => {
  const numbers = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!color.startsWith("rgb(")) continue;
      return numbers(color);
    }
    return [255, 255, 255];
  };
  const found = new Set();
  for (const element of document.querySelectorAll("main *, header *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || element.closest("svg") || !element.checkVisibility()) continue;
    if (element.disabled) continue;
    const [a, b] = [numbers(getComputedStyle(element).color), behind(element)]
      .map(luminance).sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.add(element.className || element.tagName);
  }
  return [...found];
})()
"""


@pytest.mark.slow
def test_hostile_answers_do_nothing_in_a_browser(page, hostile):
  page.open(hostile.files[0])
  for _ in range(8):
    page.press("j")
  for name in ("rightly", "wrongly", "label", "kind"):
    for i in range(page.js(f"byId('{name}').options.length")):
      page.js(f"byId('{name}').selectedIndex = {i}; applyFilters()")
    page.js("clearFilters(); applyFilters()")
  assert page.js("window.hacked") is None
  assert page.js("document.querySelectorAll('img, iframe').length") == 0
  assert page.js("document.scripts.length") == 2
  assert page.complaints() == []
