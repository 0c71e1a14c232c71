"""Any SeqIO Task or Mixture as token arrays, evaluations or a stream.

    materialize("their_mixture", "train", cache_dir=..., feature_lengths=...)

reads each leaf Task once, unshuffled, into memory-mapped token arrays; rates
come from the Mixture, nested or callable as SeqIO allows. Every leaf Task is
one sub-task, named by the Task; of our own Tasks and Mixtures sub-tasks keep
the names they have without SeqIO, and so do tokens and fingerprints.

`seqio_evaluations` gives what is needed to score decoded outputs with a
Task's own postprocessor and metrics. `ExampleStream` is for corpora too large
to materialise: it follows SeqIO's own shuffled iterators.
"""

from dss_jax.data.seqio.materialization import ExampleStream, materialize
from dss_jax.data.seqio.seqio_evaluations import (
  SeqioEvaluation,
  seqio_evaluations,
)
from dss_jax.data.seqio.seqio_vocabularies import SeqioVocabulary, from_seqio
from dss_jax.data.seqio.task_lookup import (
  add_cache_dirs,
  output_vocabulary,
  task_fingerprint,
)

__all__ = [
  "ExampleStream",
  "SeqioEvaluation",
  "SeqioVocabulary",
  "add_cache_dirs",
  "from_seqio",
  "materialize",
  "output_vocabulary",
  "seqio_evaluations",
  "task_fingerprint",
]
