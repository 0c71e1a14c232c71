"""Commands of a distillation: each once, as long as nothing has changed."""

from dss_jax.experiments.distill.commands import Commands
from dss_jax.experiments.distill.project import DistillOptions, Project


def test_a_command_is_done_for_what_it_read(tmp_path, capsys):
  project = Project.of(DistillOptions("a.csv", str(tmp_path), "m"))
  state = {}
  table, made = tmp_path / "table", tmp_path / "made"
  table.write_text("1")
  made.touch()

  def is_run() -> bool:
    # As if started anew, with what was written of the state.
    commands = Commands(project, state | project.read_state())
    commands.run("data", "--help", reads=[table], makes=[made])
    return "$ dss-jax data --help" in capsys.readouterr().out

  assert is_run()
  assert not is_run()
  table.write_text("2")
  assert is_run()
  assert not is_run()
  made.unlink()
  assert is_run()
  lines = (tmp_path / "commands.sh").read_text().splitlines()
  assert lines[-1] == "dss-jax data --help"
  assert "set -e" not in lines  # a command may end with a status above 0
