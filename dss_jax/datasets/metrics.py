"""Metrics over decoded text: exact match, value, BLEU and ROUGE.

Each `NAME(targets, predictions)` below returns a dict and can be a SeqIO
`metric_fn` as it is. Accuracies are fractions, 0 to 1; BLEU and ROUGE are 0 to
100, as their libraries and the literature have them. Targets are the user's own
text; training, `dss-jax eval`, `infer` and the checks of exports all score here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dss_jax.base import text_normalization
from dss_jax.base.errors import UserError
from dss_jax.datasets import arithmetic

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")

# Metrics that say of one prediction whether it is right.
_CORRECT: Mapping[str, Callable[[str, str], bool]] = {
  "accuracy": text_normalization.same,
  "value_accuracy": arithmetic.same_value,
}
PER_EXAMPLE_METRICS = tuple(_CORRECT)
METRICS = (*PER_EXAMPLE_METRICS, "bleu", *ROUGE_TYPES)


def is_correct(metric: str, target: str, prediction: str) -> bool:
  """Whether one prediction is right.

  Args:
    metric: "accuracy" or "value_accuracy".
    target: the gold text.
    prediction: the student's.

  Raises:
    UserError: for a metric that is defined over a corpus only.
  """
  if metric not in _CORRECT:
    raise UserError(
      f"metric {metric!r} does not judge single predictions; those that do:"
      f" {', '.join(_CORRECT)}"
    )
  return _CORRECT[metric](target, prediction)


def score(
  metric_names: Iterable[str],
  targets: Sequence[str],
  predictions: Sequence[str],
) -> dict[str, float]:
  """Scores predictions with several metrics.

  Args:
    metric_names: any of METRICS.
    targets: the gold texts.
    predictions: the student's, in the same order.

  Returns:
    Metric name -> value, in the order asked for.

  Raises:
    UserError: for an unknown metric, a missing library, or lists that do not
      fit each other.
  """
  metric_names = tuple(metric_names)
  for name in metric_names:
    if name not in METRICS:
      raise UserError(f"unknown metric {name!r}; allowed: {', '.join(METRICS)}")
  _check(targets, predictions)
  scores: dict[str, float] = {}
  for name in metric_names:
    if name in scores:
      continue
    if name in _CORRECT:
      scores[name] = _share_correct(name, targets, predictions)
    elif name == "bleu":
      scores.update(bleu(targets, predictions))
    else:
      asked = [other for other in metric_names if other in ROUGE_TYPES]
      scores.update(_rouge(asked, targets, predictions))
  return {name: scores[name] for name in metric_names}


def accuracy(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Share of predictions that are the target; see `text_normalization.normal`."""
  return score(["accuracy"], targets, predictions)


def value_accuracy(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Share of predictions with the target's arithmetic value.

  What has no value is wrong, as in the official code (there by `eval`).
  """
  return score(["value_accuracy"], targets, predictions)


def bleu(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Corpus BLEU by sacrebleu, with its default tokenisation; 0 to 100."""
  _check(targets, predictions)
  try:
    import sacrebleu
  except ImportError:
    raise UserError(_missing("bleu", "sacrebleu")) from None
  result = sacrebleu.corpus_bleu(list(predictions), [list(targets)])
  return {"bleu": float(result.score)}


def rouge(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Mean ROUGE-1, -2 and -L F-measures by rouge_score, unstemmed; 0 to 100."""
  _check(targets, predictions)
  return _rouge(ROUGE_TYPES, targets, predictions)


def _rouge(
  types: Sequence[str], targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  try:
    from rouge_score import rouge_scorer
  except ImportError:
    raise UserError(_missing(types[0], "rouge-score")) from None
  scorer = rouge_scorer.RougeScorer(list(types))
  totals = dict.fromkeys(types, 0.0)
  for target, prediction in zip(targets, predictions, strict=True):
    for name, parts in scorer.score(target, prediction).items():
      totals[name] += parts.fmeasure
  return {name: 100.0 * total / len(targets) for name, total in totals.items()}


def _share_correct(
  name: str, targets: Sequence[str], predictions: Sequence[str]
) -> float:
  correct = sum(
    is_correct(name, target, prediction)
    for target, prediction in zip(targets, predictions, strict=True)
  )
  return correct / len(targets)


def _check(targets: Sequence[str], predictions: Sequence[str]):
  if len(targets) != len(predictions):
    raise UserError(
      f"{len(targets)} targets and {len(predictions)} predictions cannot be"
      " compared"
    )
  if not targets:
    raise UserError("no predictions to score")


def _missing(metric: str, package: str) -> str:
  return f"metric {metric!r} needs a package: pip install {package}"


def judging_metric(names: Sequence[str]) -> str | None:
  """The first metric that says of one prediction whether it is right."""
  judging = [name for name in names if name in PER_EXAMPLE_METRICS]
  return judging[0] if judging else None
