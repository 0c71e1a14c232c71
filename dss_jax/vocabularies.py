"""Text to token ids and back, with SeqIO's ids and without TensorFlow.

Two vocabularies, as in T5 and ByT5: `ByteVocabulary` (UTF-8 bytes) and
`SentencePieceVocabulary` (any model trained with pad 0, end 1, unknown 2).
Ids equal those of the SeqIO classes of the same names, so a checkpoint trained
through one path decodes through the other.

One rule is added. Distilling step-by-step joins premise and hypothesis of its
entailment datasets with the *end-of-sequence token*: the input text holds
`</s>`, and the tokenizer turns it into that token's id. SeqIO's vocabularies
would spell out the four characters. Here `encode` cuts the text at `</s>`,
encodes each part by itself and joins the ids with `eos_id`.
"""

import dataclasses
import functools
import hashlib
import pathlib
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from dss_jax.base.errors import UserError
from dss_jax.base.special_ids import EOS_ID, PAD_ID, UNK_ID

# The text that stands for the end-of-sequence token inside an input.
EOS_TEXT = "</s>"

# T5's model file is 0.8 MB, mT5's 4.3 MB; anything far above is not one.
MAX_MODEL_BYTES = 64 * 2**20
MAX_EXTRA_IDS = 10_000
# The option that names a vocabulary.
_FIELD = "TrainConfig.vocabulary"

_TAXONLI_MODEL = (
  pathlib.Path(__file__).parent / "datasets" / "taxonli_vocabulary.model"
)


@runtime_checkable
class Vocabulary(Protocol):
  """What dss_jax needs of a vocabulary.

  Attributes:
    name: what the vocabulary is, by content and not by place; part of every
      fingerprint of tokenised data.
    vocab_size: number of ids, extra ids included.
    pad_id, eos_id, unk_id: the reserved ids 0, 1 and 2.
  """

  @property
  def name(self) -> str: ...

  @property
  def vocab_size(self) -> int: ...

  @property
  def extra_ids(self) -> int: ...

  @property
  def pad_id(self) -> int: ...

  @property
  def eos_id(self) -> int: ...

  @property
  def unk_id(self) -> int: ...

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, without a final end-of-sequence id."""
    ...

  def decode(self, ids: Iterable[int]) -> str:
    """Text of `ids` up to the first end-of-sequence id, padding skipped."""
    ...


def valid_text(text: str) -> str:
  """`text` with what UTF-8 cannot hold (lone surrogates) replaced by `?`."""
  if text.isascii():
    return text
  return text.encode("utf-8", "replace").decode("utf-8")


def _encode_parts(text: str, encode_part: Any, eos_id: int) -> list[int]:
  """Encodes the parts between `</s>` and joins them with `eos_id`."""
  first, *others = valid_text(text).split(EOS_TEXT)
  ids = list(encode_part(first))
  for part in others:
    ids.append(eos_id)
    ids.extend(encode_part(part))
  return ids


def _ids_of_text(ids: Iterable[int], base_size: int) -> list[int]:
  """The ids that stand for text.

  Stops before the first end-of-sequence id. Skips padding and negative ids
  (-100 marks ignored positions in some libraries). Ids from `base_size` on
  become unknown, as in SeqIO.
  """
  kept = []
  for token_id in ids:
    token_id = int(token_id)
    if token_id == EOS_ID:
      break
    if token_id > PAD_ID:
      kept.append(token_id if token_id < base_size else UNK_ID)
  return kept


def _check_extra_ids(extra_ids: int) -> None:
  if not 0 <= extra_ids <= MAX_EXTRA_IDS:
    raise UserError(
      f"extra_ids is {extra_ids}; it must be from 0 to {MAX_EXTRA_IDS} (the"
      " number after the colon in a vocabulary's name)",
      fields=_FIELD,
    )


@dataclasses.dataclass(frozen=True)
class ByteVocabulary:
  """UTF-8 bytes: id = byte + 3, as in ByT5 (arXiv 2105.13626).

  Attributes:
    extra_ids: number of further ids after the 259 of padding, end, unknown and
      the 256 bytes. ByT5's checkpoints have 125 (a table of 384 rows).
  """

  extra_ids: int = 0
  pad_id = PAD_ID
  eos_id = EOS_ID
  unk_id = UNK_ID

  _NUM_SPECIAL = 3

  def __post_init__(self):
    _check_extra_ids(self.extra_ids)

  @property
  def name(self) -> str:
    return f"bytes(extra_ids={self.extra_ids})"

  @property
  def vocab_size(self) -> int:
    return self._NUM_SPECIAL + 256 + self.extra_ids

  def encode(self, text: str) -> list[int]:
    return _encode_parts(text, self._encode_part, self.eos_id)

  def _encode_part(self, text: str) -> list[int]:
    return [byte + self._NUM_SPECIAL for byte in text.encode("utf-8")]

  def decode(self, ids: Iterable[int]) -> str:
    base_size = self._NUM_SPECIAL + 256
    data = bytes(
      token_id - self._NUM_SPECIAL
      for token_id in _ids_of_text(ids, base_size)
      if token_id >= self._NUM_SPECIAL
    )
    # Bytes that are not UTF-8 (a student may emit any) are dropped.
    return data.decode("utf-8", errors="ignore")


@dataclasses.dataclass(frozen=True)
class SentencePieceVocabulary:
  """A SentencePiece model, read through the `sentencepiece` package.

  Attributes:
    path: the model file. Only its content counts: `name` holds its hash.
    extra_ids: number of sentinels `<extra_id_0>` … added after the model's own
      pieces, the first sentinel having the last id, as in T5 (100 there).

  Raises:
    UserError: the file is missing, too large, not a SentencePiece model, or
      trained with other ids than pad 0, end 1, unknown 2.
  """

  path: str
  extra_ids: int = 0
  pad_id = PAD_ID
  eos_id = EOS_ID
  unk_id = UNK_ID

  def __post_init__(self):
    _check_extra_ids(self.extra_ids)
    object.__setattr__(self, "path", str(self.path))
    _ = self._processor  # a bad file is reported here, not at the first text

  # Equal content is the same vocabulary, wherever the file lies.
  def __eq__(self, other: object) -> bool:
    if not isinstance(other, SentencePieceVocabulary):
      return NotImplemented
    return self.name == other.name

  def __hash__(self) -> int:
    return hash(self.name)

  def __reduce__(self):
    return type(self), (self.path, self.extra_ids)

  @functools.cached_property
  def _model(self) -> bytes:
    return _read_model(self.path)

  @functools.cached_property
  def _processor(self) -> Any:
    return _load_processor(
      self.path, self._model + _extra_pieces(self.extra_ids)
    )

  @functools.cached_property
  def _digest(self) -> str:
    return hashlib.sha256(self._model).hexdigest()[:16]

  @property
  def name(self) -> str:
    return f"sentencepiece(sha256={self._digest}, extra_ids={self.extra_ids})"

  @property
  def vocab_size(self) -> int:
    return self._processor.get_piece_size()

  def encode(self, text: str) -> list[int]:
    return _encode_parts(text, self._processor.EncodeAsIds, self.eos_id)

  def decode(self, ids: Iterable[int]) -> str:
    return self._processor.DecodeIds(_ids_of_text(ids, self.vocab_size))


def _read_model(path: str) -> bytes:
  """Reads a model file of bounded size."""
  file = pathlib.Path(path)
  try:
    size = file.stat().st_size
    if size > MAX_MODEL_BYTES:
      raise UserError(
        f"the SentencePiece model {path} has {size} bytes; at most"
        f" {MAX_MODEL_BYTES} are read",
        fields=_FIELD,
      )
    return file.read_bytes()
  except OSError as error:
    raise UserError(
      f"cannot read the SentencePiece model {path!r}"
      f" ({error.strerror or error}); a vocabulary must be 'bytes', 'taxonli'"
      " or the path of a local .model file",
      fields=_FIELD,
    ) from error


def _load_processor(path: str, model: bytes) -> Any:
  """A SentencePieceProcessor whose reserved ids are checked."""
  import sentencepiece

  processor = sentencepiece.SentencePieceProcessor()
  try:
    processor.LoadFromSerializedProto(model)
    ids = (processor.pad_id(), processor.eos_id(), processor.unk_id())
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f"{path!r} is damaged or not a SentencePiece model; a vocabulary must be"
      " 'bytes', 'taxonli' or the path of one",
      fields=_FIELD,
    ) from error
  if ids != (PAD_ID, EOS_ID, UNK_ID):
    raise UserError(
      f"the SentencePiece model {path!r} has pad, end and unknown ids {ids};"
      f" they must be {(PAD_ID, EOS_ID, UNK_ID)}: train it with these, or"
      " use another",
      fields=_FIELD,
    )
  return processor


def _extra_pieces(extra_ids: int) -> bytes:
  """Serialised sentinel pieces, to be appended to a serialised model.

  A model file is a protocol buffer whose field 1 repeats the pieces, and
  concatenating two serialised messages concatenates their repeated fields
  (protobuf.dev, "Encoding", last one wins and repeated fields). So sentinels
  need no protobuf package, only: piece = 1 (string), score = 2 (float),
  type = 3 (enum, 4 = user defined).
  """
  pieces = []
  for index in reversed(range(extra_ids)):
    text = f"▁<extra_id_{index}>".encode()
    body = b"\x0a" + bytes([len(text)]) + text
    body += b"\x15" + struct.pack("<f", 0.0) + b"\x18\x04"
    pieces.append(b"\x0a" + bytes([len(body)]) + body)
  return b"".join(pieces)


# Datasets that come with a vocabulary of their own.
_DEFAULTS = {"taxonli": "taxonli"}


def default_name(dataset: str) -> str:
  """The vocabulary of a dataset when a configuration names none."""
  return _DEFAULTS.get(dataset, "bytes")


def set_default(dataset: str, name: str) -> None:
  """Makes `name` the vocabulary of a dataset whose configuration has none."""
  _DEFAULTS[dataset] = name


@functools.lru_cache(maxsize=16)
def _cached(kind: str, path: str, extra_ids: int, stamp: Any) -> Vocabulary:
  del stamp  # a changed file is another key
  if kind == "bytes":
    return ByteVocabulary(extra_ids)
  return SentencePieceVocabulary(path, extra_ids)


def split_name(name: str) -> tuple[str, int]:
  """Splits `"NAME:100"` into the name and its number of extra ids."""
  match = re.fullmatch(r"(.+?):(\d{1,6})", name)
  if match:
    return match.group(1), int(match.group(2))
  return name, 0


def model_path(name: str) -> pathlib.Path | None:
  """The file behind a vocabulary's name; None for bytes."""
  base, _ = split_name(name)
  if base == "bytes":
    return None
  return _TAXONLI_MODEL if base == "taxonli" else pathlib.Path(base)


def from_name(name: str | Vocabulary) -> Vocabulary:
  """The vocabulary that a configuration names.

  Args:
    name: `"bytes"`, `"taxonli"` (the model shipped with the built-in dataset)
      or the path of a SentencePiece model; `:N` after any of them adds N extra
      ids. T5's own vocabulary is `"/path/to/spiece.model:100"`.
      A vocabulary object is returned as it is.

  Raises:
    UserError: no such name or file, or something else.
  """
  if isinstance(name, Vocabulary) and not isinstance(name, type):
    return name
  if not isinstance(name, str):
    raise UserError(
      f"vocabulary is {name!r}; it must be 'bytes', 'taxonli' or the path of a"
      " SentencePiece model, or a vocabulary object",
      fields=_FIELD,
    )
  base, extra_ids = split_name(name)
  path = model_path(name)
  if path is None:
    return _cached("bytes", "", extra_ids, None)
  if not path.is_file():
    raise UserError(
      f"vocabulary is {base!r}, which is neither 'bytes' nor 'taxonli' nor a"
      " SentencePiece model file on this machine",
      fields=_FIELD,
    )
  stat = path.stat()
  stamp = (stat.st_mtime_ns, stat.st_size)
  return _cached("sentencepiece", str(path), extra_ids, stamp)


def with_eos(ids: Sequence[int], max_length: int | None) -> list[int]:
  """Truncates `ids` to leave room for, and appends, the end id.

  Args:
    ids: token ids.
    max_length: tokens allowed, the end id included; None for no limit.
  """
  if max_length is not None:
    ids = ids[: max(max_length - 1, 0)]
  return [*ids, EOS_ID]
