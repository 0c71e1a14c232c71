"""TFRecord files of records as a SeqIO source."""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from dss_jax.datasets.records import RATIONALE_FIELDS


def tfrecord_source(
  files: Mapping[str, str],
  *,
  num_input_examples: Mapping[str, int] | None = None,
) -> seqio.TFExampleDataSource:
  """A SeqIO source of TFRecord files of records, for Tasks of one's own.

  Args:
    files: split -> file or pattern of files, as `rationales.record_writers`
      writes them. Several files are read in parallel, and by Beam.
    num_input_examples: split -> number of records, for mixing rates.

  Returns:
    A source of `id`, `input`, `label` ("" where there is none) and the
    rationales' parallel lists `rationale_text`, `_label`, `_source`, `_weight`
    and `_status`, one entry a rationale.
  """
  text = tf.io.FixedLenFeature([], tf.string, default_value="")
  description: dict[str, Any] = dict.fromkeys(("id", "input", "label"), text)
  for name in RATIONALE_FIELDS:
    kind = tf.float32 if name == "weight" else tf.string
    description[f"rationale_{name}"] = tf.io.RaggedFeature(kind)
  return seqio.TFExampleDataSource(
    split_to_filepattern=dict(files),
    feature_description=description,
    num_input_examples=num_input_examples and dict(num_input_examples),
  )
