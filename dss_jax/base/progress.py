"""How far a run is, on a terminal or in a log."""

import math
import sys
import time
from typing import TextIO

# Between lines of progress, where no terminal shows a bar.
_SECONDS_BETWEEN_LINES = 5.0


class Progress:
  """The progress of a run: a bar on a terminal, else some lines.

  Args:
    total_steps: steps of the whole run; None where nobody knows.
    first_step: steps made before this start.
    description: what runs, in a word.
    waiting: shown before the first step is made.
    stream: where to write; a bar is drawn only if it is a terminal.
  """

  def __init__(
    self,
    total_steps: int | None,
    first_step: int = 0,
    *,
    description: str = "train",
    waiting: str = "compiling ...",
    stream: TextIO | None = None,
  ):
    self._stream = sys.stderr if stream is None else stream
    self._total = total_steps
    self._first = first_step
    self._start = time.monotonic()
    self._spent: float | None = None
    self._description = description
    self._printed, self._printed_step = -math.inf, -1
    self._bar = None
    if self._stream.isatty():
      self._bar, self._task = self._make_bar(description, waiting)
      self._bar.start()

  def _make_bar(self, description: str, waiting: str):
    from rich import console, progress, text

    class TwoLines(progress.Progress):
      """The bar, and below it what was measured: side by side they are wider
      than a terminal, and rich would leave out the bar."""

      def get_renderables(self):
        for task in self.tasks:
          yield self.make_tasks_table([task])
          yield text.Text(
            "  " + task.fields["text"], no_wrap=True, overflow="ellipsis"
          )

    bar = TwoLines(
      progress.TextColumn("{task.description}"),
      progress.BarColumn(bar_width=30),
      progress.MofNCompleteColumn(),
      progress.TimeElapsedColumn(),
      progress.TextColumn("done,"),
      progress.TimeRemainingColumn(compact=True),
      progress.TextColumn("left"),
      console=console.Console(file=self._stream),
    )
    task = bar.add_task(
      description,
      total=self._total,
      completed=self._first,
      text=waiting,
    )
    return bar, task

  def update(
    self, step: int, text: str, *, seconds: float | None = None
  ) -> None:
    """Shows how far the run is and a short text of what it measures.

    Args:
      step: steps made so far.
      text: what was measured.
      seconds: spent since the last update on what the steps to come will take
        as well, so without compiling; None estimates by the clock.
    """
    self._spent = None if seconds is None else (self._spent or 0.0) + seconds
    if self._bar is not None:
      self._bar.update(self._task, completed=step, text=text)
      return
    now = time.monotonic()
    total = math.inf if self._total is None else self._total
    is_news = step >= total and step != self._printed_step
    if now - self._printed < _SECONDS_BETWEEN_LINES and not is_news:
      return
    self._printed, self._printed_step = now, step
    spent = now - self._start if self._spent is None else self._spent
    of = "" if self._total is None else f"/{self._total}"
    line = f"{self._description} {step}{of}  {text}"
    done = step - self._first
    if done and self._total is not None:
      remaining = spent / done * max(0, self._total - step)
      line += f"  {_clock(remaining)} left"
    self._print(line)

  def say(self, text: str) -> None:
    """Prints a line that stays."""
    if self._bar is not None:
      self._bar.console.print(text, markup=False, highlight=False)
    else:
      self._print(text)

  def _print(self, text: str) -> None:
    print(text, file=self._stream, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (
    f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
  )
