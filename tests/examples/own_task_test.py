"""Another project: what its README says, done, with the wheel and nothing else.

The commands and the cells are those that readers see, in their order; only
numbers of records and steps are smaller, and ports are free ones.
"""

import csv
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import pytest

from dss_jax.datasets.records import read_records
from dss_jax.rationales import prompt_files

# What is replaced, by file.
_SMALLER = {
  "stand_in/make_data.py": {
    '"train": 510, "validation": 210, "test": 420': (
      '"train": 63, "validation": 15, "test": 24'
    ),
  },
  "student.gin": {
    "num_encoder_layers = 2": "num_encoder_layers = 1",
    "num_decoder_layers = 2": "num_decoder_layers = 1",
  },
  "compare.gin": {
    "[0, 1, 2]": "[0, 1]",
    "[0.01, 0.02, 0.04]": "[0.02, 0.04]",
    "steps = 1000": "steps = 4",
    "looks = 8": "looks = 2",
    "max_widenings = 1": "max_widenings = 0",
  },
  "README.md": {
    "--gin.TRAIN_STEPS=1000": "--gin.TRAIN_STEPS=4",
    "--gin.EVAL_PERIOD=125": "--gin.EVAL_PERIOD=2",
  },
  "own_task.ipynb": {
    '{\\"standard\\": 3500, \\"dss\\": 1000}': (
      '{\\"standard\\": 8, \\"dss\\": 8}'
    ),
    "num_encoder_layers=2": "num_encoder_layers=1",
    "num_decoder_layers=2": "num_decoder_layers=1",
  },
}
# Commands that only show something.
_SHOWING = ("dss-jax data stats", "dss-jax data show", "--show_prompt")


def _free_port() -> int:
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


@pytest.fixture
def example(repository) -> pathlib.Path:
  return repository / "examples" / "own_task"


@pytest.fixture
def project(example, installed_wheel, tmp_path) -> pathlib.Path:
  """A copy of the project, smaller, installed next to dss_jax."""
  folder = tmp_path / "menus"
  made = shutil.ignore_patterns("data", "records", "runs", "*.egg-info")
  shutil.copytree(example, folder, ignore=made)
  for name, changes in _SMALLER.items():
    text = (folder / name).read_text(encoding="utf-8")
    for old, new in changes.items():
      assert old in text, f"{name} has no {old}"
      text = text.replace(old, new)
    for port in ("8001", "8080"):
      text = text.replace(port, str(_free_port()))
    (folder / name).write_text(text, encoding="utf-8")
  installed_wheel.install("-e", folder)
  return folder


def _commands(project: pathlib.Path) -> str:
  """The commands of README after those that install, one a line."""
  readme = (project / "README.md").read_text(encoding="utf-8")
  install, *blocks = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
  assert "pip install" in install
  return "".join(blocks).replace("\\\n", " ")


def _run(project: pathlib.Path, environment, *argv: str) -> str:
  """What a command prints, which must end well."""
  ended = subprocess.run(
    argv,
    cwd=project,
    env=environment.variables(),
    capture_output=True,
    text=True,
    timeout=3600,
  )
  assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
  return ended.stdout


def _shell(project: pathlib.Path, environment, commands: str) -> str:
  return _run(project, environment, "bash", "-euc", f"{commands}\nwait\n")


def test_the_prompt_and_the_data_keep_the_rules(example, tmp_path, monkeypatch):
  """The stand-in's rules hold for what README shows a teacher and a student."""
  shutil.copytree(example / "stand_in", tmp_path / "stand_in")
  script = tmp_path / "stand_in" / "make_data.py"
  subprocess.run([sys.executable, script], check=True, timeout=60)
  monkeypatch.syspath_prepend(tmp_path / "stand_in")
  import kitchen  # type: ignore[import-not-found]

  def read(menu):
    words = menu.lower()
    found = sorted(filter(words.count, kitchen.MADE_OF), key=words.index)
    assert len(found) == 3
    return tuple(found)

  for exemplar in prompt_files.load(example / "prompt.toml").exemplars:
    dishes = read(exemplar.input)
    assert exemplar.label == kitchen.rating(dishes)
    assert exemplar.rationale.lower() == f"{kitchen.reason(dishes)}."
  seen = set()
  for split, count in (("train", 510), ("validation", 210), ("test", 420)):
    with (tmp_path / "data" / f"{split}.csv").open(newline="") as file:
      rows = [
        (read(row["menu"]), row["variety"]) for row in csv.DictReader(file)
      ]
    assert all(kitchen.rating(dishes) == label for dishes, label in rows)
    labels = [label for _, label in rows]
    assert {labels.count(each) for each in set(labels)} == {count // 3}
    menus = {frozenset(dishes) for dishes, _ in rows}
    assert len(menus) == count
    assert not menus & seen
    seen |= menus


@pytest.mark.slow
def test_a_student_is_trained_as_the_readme_says(project, installed_wheel):
  """From made-up data over a teacher's reasons to a run's results."""
  where = "import dss_jax; print(dss_jax.__file__)"
  found = _run(
    project, installed_wheel, str(installed_wheel.python), "-c", where
  )
  assert found.startswith(str(installed_wheel.bin.parent))
  commands, _, _ = _commands(project).partition("dss-jax sweep")
  lines = [
    line
    for line in commands.splitlines()
    if not any(words in line for words in _SHOWING)
  ]
  _shell(project, installed_wheel, "\n".join(lines))
  records, problems = read_records(project / "records" / "train.jsonl")
  assert (len(records), problems) == (63, [])
  assert all("is made of" in r.rationales[0].text for r in records)
  results = (project / "runs" / "dss" / "results.jsonl").read_text()
  last = json.loads(results.splitlines()[-1])
  assert (last["dataset"], last["split"], last["n"]) == ("menus", "test", 24)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_whole_readme(project, installed_wheel):
  printed = _shell(project, installed_wheel, _commands(project))
  assert "can be used" in printed
  _, found, answered = printed.partition('{"predictions": ')
  assert found, printed[-2000:]
  ((answer,), _) = json.JSONDecoder().raw_decode(answered)
  assert answer["label"] in ("good", "fair", "poor")
  assert sum(answer["label_scores"].values()) == pytest.approx(1)
  assert isinstance(answer["rationale"], str)
  report = (project / "report" / "report.html").read_text(encoding="utf-8")
  assert "menus" in report
  lines = (project / "runs" / "answers.jsonl").read_text().splitlines()
  assert len(lines) == 24
  assert {json.loads(line)["label"] for line in lines} <= {
    *("good", "fair", "poor"),
  }


# Runs the cells as a notebook does: one after the other, within a running loop.
_NOTEBOOK = """
import asyncio, json, sys
sys.path.insert(0, "")
names = {"__name__": "__main__"}
async def main():
  for cell in json.load(open("own_task.ipynb", encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
      exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.thorough
def test_the_notebook(project, installed_wheel):
  printed = _run(
    project, installed_wheel, str(installed_wheel.python), "-c", _NOTEBOOK
  )
  assert "24 records of test" in printed
  assert "test: 100 % can be read" in printed
  assert "'menus_dss'" in printed
  assert (project / "runs" / "notebook" / "report" / "report.html").exists()
