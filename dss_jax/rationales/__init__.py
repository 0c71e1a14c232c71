"""Stage 1: a large model writes rationales and answers for a dataset's inputs.

Data flow down the page:

  extraction_plan   the options: whom to ask, how, and what to keep
  prompts           a prompt file and a record -> a request
  teacher_requests  what is sent, its key, and how it ends
  teachers          who answers: an endpoint, batch files, released files, rules
  asking            many requests at once, within limits, through faults
  ledger            what was asked and answered, on disk, whatever happens
  parsing           a completion -> rationale and label, or why not
  planned_requests  which requests a run makes, round by round
  teacher_answers   the answers about a record, and their votes
  choosing          votes, agreement with gold labels, weights -> records
  quality           how good the records are: counts, tables, a page
  first_answers     whether they are of use, before the rest is paid for
  asking_rounds     all rounds of all teachers
  extraction        the run that joins it all; `dss-jax extract`
  beam_pipeline     the same run on many workers

Stage 1 needs neither JAX nor TensorFlow.
"""
