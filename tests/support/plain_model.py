"""A small SentencePiece model that lacks what T5's lacks: brackets, `<`, `{`.

Trained in a moment, with the normaliser of T5's own (NFKC; tabs and line breaks
are spaces), so that tests meet what users of real models meet.
"""

import io
from typing import Any

import pytest

WORDS = (
  "a an the cat dog is in on box it says so since because yes no not label"
  " rationale maybe answer red blue S s 0 1 2 3 4 5 6 7 8 9 : . , ? A Y N"
)


def build() -> bytes:
  """The serialised model."""
  import sentencepiece

  model = io.BytesIO()
  words = WORDS.split()
  sentences = [
    " ".join([*words[start:], *words[:start]]) for start in range(len(words))
  ]
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(sentences),
    model_writer=model,
    vocab_size=80,
    hard_vocab_limit=False,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    character_coverage=1.0,
    minloglevel=2,
  )
  return model.getvalue()


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory: Any) -> str:
  """The path of the model."""
  path = tmp_path_factory.mktemp("plain") / "plain.model"
  path.write_bytes(build())
  return str(path)


@pytest.fixture(scope="session")
def plain_vocabulary(plain_model: str) -> Any:
  """The model as a vocabulary."""
  from dss_jax import vocabularies

  return vocabularies.from_name(plain_model)
