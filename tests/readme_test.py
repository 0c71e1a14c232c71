"""The programs of README run; `tests/docs` looks at its commands."""

import csv
import re
import runpy
import subprocess
import sys

import command_line
import documented_commands
import pytest

STEPS = "total_steps=1200"


def _programs(readme: str) -> dict[str, str]:
  """Text of each Python program, by a word that only it has."""
  found = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
  words = ("add_dss_tasks", "datasets.register", "train.train(")
  return {
    word: next(program for program in found if word in program)
    for word in words
  }


@pytest.fixture(scope="module")
def readme(repository) -> str:
  return (repository / "README.md").read_text(encoding="utf-8")


def _write_tickets(folder):
  for name, number in (("tickets.csv", 40), ("tickets_test.csv", 8)):
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
      writer = csv.writer(file)
      writer.writerow(["question", "team", "why"])
      for i in range(number):
        what, team = (("refund", "billing"), ("password", "login"))[i % 2]
        writer.writerow([f"My {what} {i} is late", team, f"{what}: {team}"])


@pytest.mark.slow
@pytest.mark.parametrize(
  ("word", "module"),
  [
    ("add_dss_tasks", "my_tasks"),
    pytest.param(
      "datasets.register", "my_datasets", marks=pytest.mark.thorough
    ),
  ],
)
def test_your_own_data_trains(word, module, readme, repository, tmp_path):
  _write_tickets(tmp_path)
  program = _programs(readme)[word]
  assert program.startswith(f"# {module}.py\n")
  (tmp_path / f"{module}.py").write_text(program, encoding="utf-8")
  page = repository / "README.md"
  (argv,) = (
    command.words
    for command in documented_commands.of_page(page, repository)
    if "--gin.DATASET=tickets" in command.words
  )
  small = [
    "--gin.TRAIN_STEPS=1",
    "--gin.RECORDS_PER_BATCH=4",
    "--gin.network.T5Config.emb_dim=8",
    "--gin.network.T5Config.vocab_size=384",
    "--gin.network.T5Config.num_encoder_layers=1",
    "--gin.network.T5Config.num_decoder_layers=1",
  ]
  argv = [argument.replace("my_tasks", module) for argument in argv]
  # As the installed script is: the working folder is not on Python's path.
  script = tmp_path / "bin" / "dss-jax"
  script.parent.mkdir()
  script.write_text(
    f"import sys\nsys.path.append({str(repository)!r})\n"
    "from dss_jax.main import run\nrun()\n"
  )
  environment = command_line.environment()
  del environment["PYTHONPATH"]
  ended = subprocess.run(
    [sys.executable, script, *argv, *small],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert ended.returncode == 0, ended.stderr
  assert "test tickets_label accuracy" in ended.stderr
  assert (tmp_path / "runs" / "tickets" / "results.jsonl").exists()


@pytest.mark.slow
def test_the_library_example_runs(
  readme, tmp_path, monkeypatch, capsys, one_device
):
  program = _programs(readme)["train.train("]
  assert STEPS in program
  path = tmp_path / "example.py"
  path.write_text(program.replace(STEPS, "total_steps=2"), encoding="utf-8")
  monkeypatch.chdir(tmp_path)
  runpy.run_path(str(path))
  assert re.search(r"test accuracy 0\.\d{3}", capsys.readouterr().out)
