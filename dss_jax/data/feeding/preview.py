"""A batch taken apart again: what the student reads and writes, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data import pipeline
from dss_jax.data.feeding import batches, training_data
from dss_jax.data.packing import packed_features
from dss_jax.data.pairs import task_names

# Shown where the end-of-sequence token stands, inside a text or at its end.
END = "</s>"


def preview(
  config: pipeline.DatasetConfig,
  *,
  vocabulary: str | vocabularies.Vocabulary | None = None,
  seed: int = 0,
  step: int = 0,
  max_rows: int | None = None,
) -> dict[str, Any]:
  """Builds a batch as training does, and decodes what is in it.

  Args:
    config: what to read and how to batch it.
    vocabulary: the vocabulary, or its name; None for the dataset's own.
    seed: of the order of the data.
    step: which batch.
    max_rows: how many packed rows to take apart; None for all.

  Returns:
    JSON values: what the vocabulary does not know and what is cut, the batch's
    shape and padding, and its rows with their examples in the order of their
    segments.

  Raises:
    UserError: for an unknown task, missing data or a step before the first.
  """
  if step < 0:
    raise UserError(f"step is {step}; it must be 0 or more", fields="step")
  ours = task_names.parse_task_name(config.mixture_or_task_name)
  chosen = training_data.vocabulary_of(config, vocabulary)
  packed = training_data.load_packed(config, chosen, seed=seed)
  examples, shape = packed.example_set, packed.shape
  ids = None
  if ours:
    records = datasets.load_split(
      ours.dataset, config.split, options=config.data
    )
    ids = [record.id for record in records]
  statistics = packed.packing_statistics(step)
  return {
    "task": config.mixture_or_task_name,
    "split": config.split,
    "vocabulary": chosen.name,
    "task_feature_lengths": config.feature_lengths(),
    "subtasks": [
      {
        "name": subtask.name,
        "examples": len(subtask),
        "rate": rate,
        "left_out": dict(examples.left_out.get(subtask.name, {})),
        "cut": dict(examples.cut.get(subtask.name, {})),
      }
      for subtask, rate in zip(examples.subtasks, examples.rates)
    ],
    "paired": examples.paired,
    "texts": training_data.text_report(config, chosen, examples),
    "batch": {
      "step": step,
      "rows": shape.rows,
      "encoder_length": shape.encoder_length,
      "decoder_length": shape.decoder_length,
      "records_per_batch": shape.records_per_batch,
      "examples": statistics["examples_by_subtask"],
      "padding": round(statistics["padding"], 4),
    },
    "rows": _rows(packed, chosen, ids, step, max_rows),
  }


def _rows(
  packed: batches.PackedBatches,
  vocabulary: vocabularies.Vocabulary,
  ids: Sequence[str] | None,
  step: int,
  max_rows: int | None,
) -> list[dict[str, Any]]:
  """The rows of a batch, read from its features alone."""
  names = [subtask.name for subtask in packed.example_set.subtasks]
  rows: dict[int, dict[str, Any]] = {}
  for example in packed_features.unpack(packed[step]):
    if max_rows is not None and example.row >= max_rows:
      break
    row = rows.setdefault(
      example.row,
      {"row": example.row, "encoder_tokens": 0, "decoder_tokens": 0,
       "examples": []},
    )  # fmt: skip
    row["encoder_tokens"] += len(example.inputs)
    row["decoder_tokens"] += len(example.targets)
    row["examples"].append({
      "segment": example.segment,
      "subtask": names[example.subtask],
      "record": ids[example.record] if ids else str(example.record),
      "weight": example.weight,
      "inputs": decoded(vocabulary, example.inputs),
      "targets": decoded(vocabulary, example.targets),
      "input_ids": example.inputs,
      "target_ids": example.targets,
    })  # fmt: skip
  return list(rows.values())


def decoded(vocabulary: vocabularies.Vocabulary, ids: Sequence[int]) -> str:
  """All of `ids` as text; `Vocabulary.decode` itself stops at the first end."""
  parts, part = [], []
  for token in ids:
    if token == vocabulary.eos_id:
      parts.append(vocabulary.decode(part))
      part = []
    else:
      part.append(token)
  parts.append(vocabulary.decode(part))
  return END.join(parts)
