"""The window of steps that is profiled."""

import pathlib

import pytest
import small_runs

from dss_jax.base.errors import UserError
from dss_jax.training.monitoring import profiling


def _steps(text: str) -> range | None:
  config = small_runs.config(
    pathlib.Path("unused"), total_steps=10, profile_steps=text
  )
  return config.steps_to_profile()


def test_a_window_ends_before_its_second_number():
  assert _steps("3:5") == range(3, 5)
  assert _steps("10:99") == range(10, 99)


@pytest.mark.parametrize(
  "text",
  ["", "5", "5:5", "6:5", "0:3", "-1:3", "1:2:3", "a:b", "1.5:3", "1:5\n"],
)
def test_anything_else_is_refused_in_one_line(text):
  with pytest.raises(UserError, match=r"^profile_steps is.*A:B") as error:
    _steps(text)
  assert "\n" not in str(error.value)


def test_a_window_after_the_end_is_refused():
  with pytest.raises(UserError, match=r"ends with step 10.*total_steps"):
    _steps("11:12")


@pytest.mark.parametrize(
  ("first_step", "said"),
  [
    (0, None),
    (4, "continues with step 5; of the steps 3 to 6, only 5 to 6"),
    (6, "steps 3 to 6 are made already"),
  ],
)
def test_what_a_resumed_run_says(tmp_path, first_step, said):
  lines = []
  window = profiling.ProfilerWindow(
    range(3, 7), tmp_path, first_step=first_step, say=lines.append
  )
  window.close()
  assert len(lines) == (said is not None)
  assert said is None or said in lines[0]
  assert not list(tmp_path.iterdir())


def test_a_first_step_that_fails_is_not_hidden(tmp_path):
  lines = []
  window = profiling.ProfilerWindow(
    range(3, 7), tmp_path, first_step=2, say=lines.append
  )
  window.before(3, None)  # the step's own error is on its way
  window.close()
  assert not lines
