"""Stage 1: a large model writes rationales and answers for a dataset's inputs.

Data flow down the page:

  prompts      a prompt file and a record -> what is sent
  requests     what is sent, and the key under which it is asked only once
  teachers     who answers: an OpenAI-compatible endpoint, released files, rules
  asking       many requests at once, within limits, through faults
  ledger       what was asked and answered, on disk, whatever happens
  parsing      a completion -> rationale and answer, or why not
  answers      what was answered to a record, and the votes among it
  choosing     votes, agreement with gold labels, weights -> records
  quality      how good records are, counted -> quality_report
  questions    which requests a run makes, round by round
  extraction   the run that joins them; `dss-jax extract`

Needs neither JAX nor TensorFlow.
"""
