"""SeqIO Tasks and Mixtures over records and sub-tasks.

    add_dss_tasks("svamp")                                  # a known dataset
    add_dss_tasks("mine", {"train": "mine.jsonl"}, field_mapping={...})

registers `<name>_standard`, `_label`, `_rationale`, `_dss`, `_dss_paired`,
`_rationale_then_label`, `_label_then_rationale` and `_rationale_as_input`, each
also with `_teacher` appended. Sub-tasks are Tasks, `dss` and `dss_paired` are
Mixtures. They are ordinary SeqIO: T5X, `seqio.get_dataset`, converters, the
Evaluator and `seqio_cache_tasks` take them as they are.

A Task's pipeline:

    flat records (data/pairs/flat_records.py)  <- the source split's records
    CacheDatasetPlaceholder
    make_examples  <- splits, training fraction, rationale filter, prefixes,
                      vocabulary; "</s>" in a text becomes the end id
    append_eos_after_trim

What comes before the placeholder depends only on the call and, for the
released data, on the options that say how it is read (`data_dir`, parser);
all other options are read when a dataset is asked for, after the placeholder,
so one cache serves every fraction, filter, prefix and vocabulary. Cached
records carry a fingerprint of the data they were made from; a cache made from other
data is refused.

SeqIO sees the two examples of a record of `dss_paired` without adjacency; our
trainer keeps them in one batch.
"""

from dss_jax.data.seqio.dss_task import (
  DssTask,
  FlatRecordSource,
  OutputFeatures,
  make_examples,
)
from dss_jax.data.seqio.registration import add_dss_tasks
from dss_jax.data.seqio.seqio_vocabularies import (
  SeqioVocabulary,
  encode_text,
  from_seqio,
  to_seqio,
)

__all__ = [
  "DssTask",
  "FlatRecordSource",
  "OutputFeatures",
  "SeqioVocabulary",
  "add_dss_tasks",
  "encode_text",
  "from_seqio",
  "make_examples",
  "to_seqio",
]
