"""The figures show the numbers of the tables, and say why one is missing."""

import re
from xml.etree import ElementTree

import made_runs
import numpy as np
import pytest

from dss_jax.datasets.records import Rationale, Record, write_records
from dss_jax.experiments.report import (
  figure_files,
  finished_runs,
  report_content,
  report_figures,
)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
  """Two students, two sizes, two methods, two seeds, and a teacher."""
  folder = tmp_path_factory.mktemp("runs")
  for seed in (0, 1):
    for method, more in (("standard", 0.0), ("dss", 0.1)):
      for width in (8, 16):
        for examples, accuracy in ((100, 0.3), (400, 0.7)):
          made_runs.make_run(
            folder / f"{method}{width}_{examples}_{seed}",
            method=method,
            width=width,
            examples=examples,
            seed=seed,
            test=accuracy + more + width / 100,
          )
  run = finished_runs.read_run(folder / "dss8_100_0")
  assert run.validation is not None
  records = [
    Record(
      item,
      "i",
      target,
      (Rationale("so", target if i % 3 else "none", "big"),),
    )
    for split in (run.validation, run.test)
    for i, (item, target) in enumerate(
      zip(split.ids, split.targets, strict=True)
    )
  ]
  write_records(folder / "big.jsonl", records)
  return report_content.build([folder], teacher_files=[folder / "big.jsonl"])


@pytest.fixture(scope="module")
def drawings(content):
  found, missing = report_figures.draw(content)
  assert missing == []
  return {drawing.name: drawing for drawing in found}


def test_there_are_the_three_figures(drawings):
  assert [name.split("_")[0] for name in drawings] == [
    "data", "data", "size", "least"
  ]  # fmt: skip


def _curves(drawing):
  """Label -> [points, 2] of the curves with intervals."""
  axes = drawing.figure.axes[0]
  return {
    container.get_label(): container.lines[0].get_xydata()
    for container in axes.containers
  }


def test_curves_and_lines_are_those_of_the_tables(content, drawings):
  [drawing] = [
    d for n, d in drawings.items() if n.startswith("data_") and "_8x" in n
  ]
  curves = _curves(drawing)
  rows = [r for r in content.rows if r.group.parameters == 6560]
  for method in ("fine-tuning", "distilling step-by-step"):
    own = [r for r in rows if content.name(r.group.series) == method]
    assert np.allclose(curves[method][:, 1], [r.summary.mean for r in own])
    # Side by side, and within a tenth of the place itself.
    assert np.allclose(curves[method][:, 0], [100, 400], rtol=0.1)
  axes = drawing.figure.axes[0]
  levels = [
    line.get_ydata()[0]
    for line in axes.lines
    if len(line.get_ydata()) == 2 and line.get_linestyle() in (":", "--")
  ]
  reference = next(
    r for r in rows
    if r.group.examples == 400 and r.group.series.method == "standard"
  )  # fmt: skip
  teacher = content.hardest["taxonli"].scores(
    rows[0].group.runs[0].test, "accuracy"
  )
  assert reference.summary.mean in levels
  assert teacher.mean() in levels


def test_runs_at_chance_are_hollow(content, drawings):
  [drawing] = [
    d for n, d in drawings.items() if n.startswith("data_") and "_8x" in n
  ]
  dots = [
    line
    for line in drawing.figure.axes[0].lines
    if len(line.get_xdata()) == 1 and line.get_marker() == "o"
  ]
  hollow = [line for line in dots if line.get_markerfacecolor() == "none"]
  rows = [r for r in content.rows if r.group.parameters == 6560]
  at_chance = sum(sum(row.summary.at_chance) for row in rows)
  assert len(dots) == 8
  assert len(hollow) == at_chance > 0
  assert f"{at_chance} of 8 are at chance" in drawing.caption
  for line in hollow:
    assert line.get_ydata()[0] < 0.55


def test_every_point_has_its_number_of_seeds(drawings):
  drawing = next(iter(drawings.values()))
  texts = [text.get_text() for text in drawing.figure.axes[0].texts]
  assert texts.count("2") == 4


def test_winners_are_filled(content, drawings):
  axes = drawings["least_taxonli"].figure.axes[0]
  marks = [
    line for line in axes.lines
    if len(line.get_xdata()) == 1
  ]  # fmt: skip
  filled = [m for m in marks if m.get_markerfacecolor() != "none"]
  assert len(marks) == 8
  assert len(filled) == sum(
    bool(each.beats) for each in content.against_teacher
  )


def test_a_drawing_for_a_page_has_no_style_and_ids_of_its_own(drawings):
  ids: list[str] = []
  for drawing in drawings.values():
    root = ElementTree.fromstring(drawing.svg)
    for element in root.iter():
      assert "style" not in element.attrib
      assert element.tag not in ("style", "metadata", "script")
      assert not any("http" in value for value in element.attrib.values())
    own = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    ids += own
    for used in re.findall(r'(?:href="#|url\(#)([^")]+)', drawing.svg):
      assert used in own
    assert "currentColor" in drawing.svg
    assert root.attrib["aria-label"] == drawing.title
  assert len(ids) == len(set(ids))


def test_files_are_the_same_each_time(tmp_path, content, drawings):
  first = figure_files.write(tmp_path / "a", drawings.values())
  again, _ = report_figures.draw(content)
  second = figure_files.write(tmp_path / "b", again)
  assert [p.name for p in first] == [p.name for p in second]
  for one, other in zip(first, second, strict=True):
    assert one.read_bytes() == other.read_bytes()
  assert first[1].read_bytes().startswith(b"\x89PNG")


def test_one_setting_has_its_methods_side_by_side(tmp_path):
  for method, accuracy in (("standard", 0.5), ("dss", 0.9)):
    for seed in (0, 1):
      made_runs.make_run(
        tmp_path / f"{method}{seed}", method=method, seed=seed, test=accuracy
      )
  content = report_content.build([tmp_path])
  [drawing], _ = report_figures.draw(content)
  axes = drawing.figure.axes[0]
  means = [c.lines[0].get_xdata()[0] for c in axes.containers]
  assert means == [row.summary.mean for row in content.rows]
  names = [label.get_text() for label in axes.get_yticklabels()]
  assert names == [
    "fine-tuning\nseeds: 2",
    "distilling step-by-step\nseeds: 2",
  ]


def test_what_the_runs_cannot_support_is_left_out(tmp_path):
  made_runs.make_run(tmp_path / "a")
  found, missing = report_figures.draw(report_content.build([tmp_path]))
  assert found == []
  assert [m.reason for m in missing] == [
    "it takes runs of one student with two sizes or more",
    "it takes runs of two students on the same data",
    "the teacher's answers to the test items are not at hand",
  ]


def test_students_that_began_elsewhere_have_drawings_of_their_own(tmp_path):
  for number, init in enumerate(("random", "a/base", "b/base")):
    for examples in (100, 400):
      for width in (8, 16):
        made_runs.make_run(
          tmp_path / f"{number}_{examples}_{width}",
          examples=examples,
          width=width,
          test=0.5,
          init=init,
        )
  found, _ = report_figures.draw(report_content.build([tmp_path]))
  names = [drawing.name for drawing in found]
  assert len(set(names)) == len(names) == 9
  assert {name.rpartition("_from_")[2] for name in names} == {
    "random",
    "1_base",
    "2_base",
  }
  assert "from a/base" in " ".join(drawing.caption for drawing in found)


def test_names_are_written_as_they_are(tmp_path):
  """Dollar signs begin no formula, and a wrong one is no crash."""
  name = r"big $\frac{$"
  for examples in (100, 400):
    made_runs.make_run(
      tmp_path / str(examples), examples=examples, student=name
    )
  run = finished_runs.read_run(tmp_path / "100")
  records = [
    Record(item, "i", target, (Rationale("so", target, name),))
    for item, target in zip(run.test.ids, run.test.targets, strict=True)
  ]
  write_records(tmp_path / "big.jsonl", records)
  content = report_content.build(
    [tmp_path], teacher_files=[tmp_path / "big.jsonl"]
  )
  [drawing], _ = report_figures.draw(content)
  assert len(figure_files.write(tmp_path / "figures", [drawing])) == 2
  axes = drawing.figure.axes[0]
  assert f"teacher: {name}" in [t.get_text() for t in axes.texts]
  assert not any(text.get_parse_math() for text in axes.texts)
