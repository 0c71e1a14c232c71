"""How long a run still takes."""

import io

from dss_jax.base import progress


def test_what_is_spent_once_is_no_part_of_the_time_left():
  stream = io.StringIO()
  shown = progress.Progress(100, stream=stream)
  # Whatever the clock says: 4 s for 10 steps, compiling left out.
  shown.update(10, "loss 1", seconds=4.0)
  assert stream.getvalue() == "train 10/100  loss 1  0:36 left\n"
  shown._printed = -float("inf")  # the next line is due
  shown.update(40, "loss 1", seconds=26.0)
  assert stream.getvalue().splitlines()[-1].endswith("0:45 left")


def test_a_resumed_run_counts_its_own_steps(monkeypatch):
  stream = io.StringIO()
  shown = progress.Progress(100, 50, stream=stream)
  shown.update(60, "", seconds=10.0)
  assert "0:40 left" in stream.getvalue()
