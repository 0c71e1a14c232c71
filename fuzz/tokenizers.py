"""Vocabularies of others: SentencePiece models and tokenizer files."""

from __future__ import annotations

import functools
import io
import json

from dss_jax import vocabularies
from dss_jax.base.special_ids import EOS_ID, PAD_ID, UNK_ID
from dss_jax.pretrained import tokenizer_json, tokenizers
from fuzz.targets import Target, scratch

_TEXTS = ("a poodle is a dog", "é \u3000</s> x", "")


@functools.cache
def _model() -> bytes:
  """A SentencePiece model of a few pieces, with a small table of characters.

  T5's own table has 240 KB, which random changes would be lost in.
  """
  import sentencepiece

  rules = scratch("rules.tsv")
  rules.write_text("FF21\t41\n3000\t20\n")  # wide A and space
  words = [
    "a",
    "poodle",
    "is",
    "a",
    "dog",
    "and",
    "every",
    "dog",
    "is",
    "an",
    "animal",
    "A",
  ]
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(
      " ".join(words[i:] + words[:i]) for i in range(len(words))
    ),
    model_writer=model,
    model_type="unigram",
    vocab_size=40,
    hard_vocab_limit=False,
    normalization_rule_tsv=str(rules),
    pad_id=PAD_ID,
    eos_id=EOS_ID,
    unk_id=UNK_ID,
    bos_id=-1,
    minloglevel=2,
  )
  return model.getvalue()


def _use(model: bytes, extra_ids: int, added: tuple[str, ...] = ()) -> None:
  """Loads a model as a run would, and turns texts into ids and back."""
  path = scratch("spiece.model")
  path.write_bytes(model)
  vocabulary = vocabularies.SentencePieceVocabulary(str(path), extra_ids, added)
  for text in _TEXTS:
    ids = vocabulary.encode(text)
    assert all(0 <= i < vocabulary.vocab_size for i in ids)
    vocabulary.decode(ids)
  tokenizer_json.of_vocabulary(vocabulary)


def _sentencepiece(data: bytes) -> None:
  _use(data, 3)


def _whole(data: bytes) -> None:
  path = scratch("tokenizer.json")
  path.write_bytes(data)
  found = tokenizer_json.read(path)
  _use(found.model, found.extra_ids, found.added_tokens)


def _whole_seeds() -> list[bytes]:
  path = scratch("seed.model")
  path.write_bytes(_model())
  seeds = []
  for added in ((), ("{", "\n")):
    vocabulary = vocabularies.SentencePieceVocabulary(str(path), 3, added)
    content = tokenizer_json.of_vocabulary(vocabulary)
    seeds.append(json.dumps(content, ensure_ascii=False).encode())
  return seeds


def _options(data: bytes) -> None:
  """tokenizer_config.json, and added_tokens.json after NUL."""
  folder = scratch("tokenizer")
  folder.mkdir(exist_ok=True)
  if not (folder / "spiece.model").exists():
    (folder / "spiece.model").write_bytes(_model())
  config, _, added = data.partition(b"\0")
  (folder / "tokenizer_config.json").write_bytes(config)
  (folder / "added_tokens.json").write_bytes(added)
  name = tokenizers.vocabulary_name(folder, 140)
  if name is not None:
    vocabularies.from_name(name)


def _option_seeds() -> list[bytes]:
  token = {"content": "<extra_id_0>", "special": True}
  config = {
    "tokenizer_class": "T5Tokenizer",
    "extra_ids": 3,
    "additional_special_tokens": ["<extra_id_0>", token],
    "added_tokens_decoder": {"0": {"content": "<pad>"}},
  }
  return [
    json.dumps(config).encode() + b"\0{}",
    b'{"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}\0{}',
    b'{}\0{"</s>": 1}',
  ]


TARGETS = {
  "sentencepiece": Target(
    _sentencepiece, lambda: [_model()], max_bytes=1 << 14
  ),
  "tokenizer_json": Target(
    _whole,
    _whole_seeds,
    (
      "Precompiled",
      "Replace",
      "Metaspace",
      "WhitespaceSplit",
      "Split",
      "added_tokens",
      "byte_fallback",
      "unk_id",
      "pretokenizers",
      "normalizers",
      "Sequence",
    ),
    max_bytes=1 << 14,
  ),
  "options": Target(
    _options,
    _option_seeds,
    ("added_tokens_decoder", "ByT5Tokenizer", "<extra_id_99>", "extra_ids"),
  ),
}
