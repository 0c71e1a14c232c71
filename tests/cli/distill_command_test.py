"""What `dss-jax distill` asks the user."""

import io
import sys

import pytest

from dss_jax.cli import distill_command


class _Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


@pytest.mark.parametrize(
  ("typed", "agreed"),
  [
    ("y\n", True),
    (" YES \n", True),
    ("\n", False),
    ("no\n", False),
    ("", False),
  ],
)
def test_only_a_yes_agrees(typed, agreed, monkeypatch, capsys):
  """Ctrl-D, which ends the input, is none."""
  monkeypatch.setattr(sys, "stdin", _Terminal(typed))
  assert distill_command._agreed("Ask the model?") is agreed
  assert "Ask the model? [y/N]" in capsys.readouterr().out


def test_where_nobody_can_answer_nobody_agrees(monkeypatch):
  monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
  assert not distill_command._agreed("Ask the model?")
