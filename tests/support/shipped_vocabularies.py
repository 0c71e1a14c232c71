"""Makes the SentencePiece models that ship with the generated datasets.

    PYTHONPATH=. python tests/support/shipped_vocabularies.py taxonli
    PYTHONPATH=. python tests/support/shipped_vocabularies.py families

A trained model would need luck to get every word of a small closed dataset
whole. These are written down instead: one piece for each word of the dataset's
records, labels and prefixes, and one for each character that other text may be
spelled with. Each is an ordinary unigram model, which any
SentencePiece reads (SeqIO, T5X, transformers).

A word's piece always wins over its spelling: the segmentation maximises the
sum of scores, and one word (-1) beats any two characters (-10 each).
"""

import argparse
import pathlib
import string
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

from dss_jax import vocabularies
from dss_jax.data.pairs import subtasks
from dss_jax.datasets import families, taxonli
from dss_jax.datasets.options import CONTROLS

_SPACE = "▁"  # what SentencePiece writes for a space
_WORD_SCORE = -1.0
_CHARACTER_SCORE = -10.0
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation

# Characters of ordinary text that are spelled with others here. As T5's
# models do, line ends and tabs become spaces.
_NORMALIZED = {
  "\t": " ",
  "\n": " ",
  "\r": " ",
  "\N{NO-BREAK SPACE}": " ",
  "\N{LEFT SINGLE QUOTATION MARK}": "'",
  "\N{RIGHT SINGLE QUOTATION MARK}": "'",
  "\N{LEFT DOUBLE QUOTATION MARK}": '"',
  "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
  "\N{EN DASH}": "-",
  "\N{EM DASH}": "-",
}


def build_model(words: Iterable[str]) -> bytes:
  """A serialised unigram model in which each of `words` is one piece.

  Args:
    words: with their punctuation, case and brackets, without spaces.
  """
  proto = _messages().ModelProto()
  piece_type = proto.SentencePiece

  def add(piece: str, score: float, kind: int) -> None:
    proto.pieces.add(piece=piece, score=score, type=kind)

  add("<pad>", 0.0, piece_type.CONTROL)
  add("</s>", 0.0, piece_type.CONTROL)
  add("<unk>", 0.0, piece_type.UNKNOWN)
  for word in dict.fromkeys(words):
    add(_SPACE + word, _WORD_SCORE, piece_type.NORMAL)
  add(_SPACE, _CHARACTER_SCORE, piece_type.NORMAL)
  for character in _CHARACTERS:
    add(character, _CHARACTER_SCORE, piece_type.NORMAL)

  trainer = proto.trainer_spec
  trainer.model_type = trainer.UNIGRAM
  trainer.vocab_size = len(proto.pieces)
  trainer.pad_id = vocabularies.PAD_ID
  trainer.eos_id = vocabularies.EOS_ID
  trainer.unk_id = vocabularies.UNK_ID
  trainer.bos_id = -1
  normalizer = proto.normalizer_spec
  normalizer.CopyFrom(_normalizer_spec())
  normalizer.add_dummy_prefix = True
  normalizer.remove_extra_whitespaces = True
  normalizer.escape_whitespaces = True
  return proto.SerializeToString(deterministic=True)


def _messages() -> Any:
  """SentencePiece's protocol buffers; only making a model needs protobuf."""
  from sentencepiece import sentencepiece_model_pb2

  return sentencepiece_model_pb2


def _normalizer_spec() -> Any:
  """The rules of `_NORMALIZED`, compiled by SentencePiece."""
  import sentencepiece

  with tempfile.TemporaryDirectory() as folder:
    rules = pathlib.Path(folder) / "rules.tsv"
    rules.write_text(
      "".join(
        f"{ord(old):X}\t{ord(new):X}\n" for old, new in _NORMALIZED.items()
      )
    )
    normalizer = sentencepiece.SentencePieceNormalizer(rule_tsv=str(rules))
  proto = _messages().ModelProto.FromString(normalizer.serialized_model_proto())
  spec = proto.normalizer_spec
  spec.ClearField("normalization_rule_tsv")  # the path of the file above
  return spec


def taxonli_words() -> list[str]:
  """Every word that taxonli's records, labels and prefixes are made of.

  Taken from the taxonomy and from what the generator writes, under every
  control, so that it follows them if they change.
  """
  taxonomy = [
    word
    for kinds in (taxonli.THINGS, taxonli.PLACES)
    for kind, words in kinds.items()
    for word in (kind, *words)
  ]
  written: set[str] = set()
  for control in CONTROLS:
    for record in taxonli.generate("train", 1000, control=control):
      text = f"{record.input} {record.rationales[0].text}"
      for word in text.replace(vocabularies.EOS_TEXT, " ").split():
        written.add(word.strip(string.punctuation))
  words = _prefixes()
  words += taxonli.LABELS
  words += taxonomy
  words += sorted(written.difference(words))
  return [word for word in words if word]


def family_words() -> list[str]:
  """Every word of the families' records, labels and prefixes."""
  words = _prefixes()
  written: set[str] = set()
  for family in families.FAMILIES.values():
    for control in CONTROLS:
      for record in families.generate(family, "train", 3000, control=control):
        text = f"{record.input} {record.rationales[0].text} {record.label}"
        written.update(text.split())
  return words + sorted(written.difference(words))


def _prefixes() -> list[str]:
  options = subtasks.MethodOptions()
  prefixes = [
    options.label_prefix,
    options.rationale_prefix,
    "predict:",  # The official code's prefixes.
    "explain:",
  ]
  return [prefix.strip() for prefix in prefixes]


WORDS = {"taxonli": taxonli_words, "families": family_words}


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes the model where the package looks for it."""
  parser = argparse.ArgumentParser(
    description="Makes a SentencePiece model that ships with the package.",
  )
  parser.add_argument("name", choices=WORDS, help="which one")
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    help="where to write the model (default: into the package)",
  )
  options = parser.parse_args(arguments)
  output = options.output or pathlib.Path(
    str(vocabularies.model_path(options.name))
  )
  output.write_bytes(build_model(WORDS[options.name]()))
  vocabulary = vocabularies.from_name(str(output))
  print(f"{output}: {vocabulary.vocab_size} pieces, {vocabulary.name}")


if __name__ == "__main__":
  main()
