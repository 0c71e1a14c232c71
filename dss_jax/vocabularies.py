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

A SentencePiece model writes only the characters that it was trained on: T5's
has no braces, no `<`, no line break and no two spaces in a row. `can_write`
says whether a text survives, and *added tokens* (`NAME+["{", "\\n"]`) give a
vocabulary what it lacks, each as one id, to the letter.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from dss_jax.base import text_normalization
from dss_jax.base.errors import UserError
from dss_jax.base.special_ids import EOS_ID, PAD_ID, UNK_ID

# The text that stands for the end-of-sequence token inside an input.
EOS_TEXT = "</s>"

# T5's model file is 0.8 MB, mT5's 4.3 MB; anything far above is not one.
MAX_MODEL_BYTES = 64 * 2**20
MAX_EXTRA_IDS = 10_000
# Added tokens: a handful of characters, or the spaces of a programming language.
MAX_ADDED_TOKENS = 1_000
MAX_ADDED_LENGTH = 100
# Stand for the added tokens inside SentencePiece: private characters, which no
# text of use has.
_FIRST_MARKER = 0x100000
# A marker that a text brings itself; no vocabulary has it.
_NO_CHARACTER = "\ufffd"
# The option that names a vocabulary.
_FIELD = "TrainConfig.vocabulary"

# The models that come with the generated datasets.
_SHIPPED = {
  name: pathlib.Path(__file__).parent / "datasets" / f"{name}_vocabulary.model"
  for name in ("taxonli", "families")
}
_NAMES = "'bytes', " + ", ".join(map(repr, _SHIPPED))


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


def marker(index: int) -> str:
  """The character that stands for an added token inside SentencePiece."""
  return chr(_FIRST_MARKER + index)


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


def _check_added_tokens(tokens: Sequence[str]) -> None:
  problem = None
  if len(tokens) > MAX_ADDED_TOKENS:
    problem = (
      f"has {len(tokens)} tokens; at most {MAX_ADDED_TOKENS} can be added"
    )
  elif len(set(tokens)) < len(tokens):
    twice = next(token for token in tokens if tokens.count(token) > 1)
    problem = f"has {twice!r} twice"
  for token in tokens:
    if not 0 < len(token) <= MAX_ADDED_LENGTH:
      problem = (
        f"has {token!r}; a token must have 1 to {MAX_ADDED_LENGTH} characters"
      )
    elif EOS_TEXT in token or token != valid_text(token):
      problem = f"has {token!r}, which no text can hold"
  if problem:
    raise UserError(
      f"added_tokens (the list after the + in a vocabulary's name) {problem}",
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
    added_tokens: texts that become one id each, wherever they stand, the longest
      first: what the model cannot write itself. Their ids follow the sentinels,
      in order, where transformers puts its added tokens too. Nothing is done to
      them or to the text around them, so that line breaks and spaces stay.

  Raises:
    UserError: the file is missing, too large, not a SentencePiece model, or
      trained with other ids than pad 0, end 1, unknown 2; or an added token is
      empty, too long, there twice, or the end of a sequence.
  """

  path: str
  extra_ids: int = 0
  added_tokens: tuple[str, ...] = ()
  pad_id = PAD_ID
  eos_id = EOS_ID
  unk_id = UNK_ID

  def __post_init__(self):
    _check_extra_ids(self.extra_ids)
    object.__setattr__(self, "path", str(self.path))
    object.__setattr__(self, "added_tokens", tuple(self.added_tokens))
    _check_added_tokens(self.added_tokens)
    _ = self._processor  # a bad file is reported here, not at the first text

  # Equal content is the same vocabulary, wherever the file lies.
  def __eq__(self, other: object) -> bool:
    if not isinstance(other, SentencePieceVocabulary):
      return NotImplemented
    return self.name == other.name

  def __hash__(self) -> int:
    return hash(self.name)

  def __reduce__(self):
    return type(self), (self.path, self.extra_ids, self.added_tokens)

  @functools.cached_property
  def _model(self) -> bytes:
    return _read_model(self.path)

  @functools.cached_property
  def model_with_added(self) -> bytes:
    """The serialised model with sentinels and added tokens as its last pieces.

    An added token is the marker that `to_markers` puts in its place.
    """
    sentinels = [f"▁<extra_id_{i}>" for i in reversed(range(self.extra_ids))]
    return self._model + b"".join(
      map(_user_defined_piece, [*sentinels, *self._markers.values()])
    )

  @functools.cached_property
  def _processor(self) -> Any:
    return _load_processor(self.path, self.model_with_added)

  @functools.cached_property
  def _digest(self) -> str:
    return hashlib.sha256(self._model).hexdigest()[:16]

  @functools.cached_property
  def _markers(self) -> dict[str, str]:
    """The character that stands for each added token."""
    return {
      token: marker(index) for index, token in enumerate(self.added_tokens)
    }

  @functools.cached_property
  def _tokens_of_markers(self) -> dict[int, str]:
    return {ord(marker): token for token, marker in self._markers.items()}

  @functools.cached_property
  def _added_pattern(self) -> re.Pattern[str]:
    longest_first = sorted(self.added_tokens, key=len, reverse=True)
    texts = "|".join(map(re.escape, [*longest_first, *self._markers.values()]))
    return re.compile(texts)

  @property
  def name(self) -> str:
    added = ""
    if self.added_tokens:
      added = f", added={json.dumps(self.added_tokens)}"
    return (
      f"sentencepiece(sha256={self._digest}, extra_ids={self.extra_ids}{added})"
    )

  @property
  def vocab_size(self) -> int:
    return self._processor.get_piece_size()

  def to_markers(self, text: str) -> str:
    """`text` with a private character in the place of each added token."""
    if not self.added_tokens:
      return text
    return self._added_pattern.sub(
      lambda found: self._markers.get(found.group(), _NO_CHARACTER), text
    )

  def from_markers(self, text: str) -> str:
    """The inverse of `to_markers`."""
    return (
      text.translate(self._tokens_of_markers) if self.added_tokens else text
    )

  def encode(self, text: str) -> list[int]:
    return _encode_parts(text, self._encode_part, self.eos_id)

  def _encode_part(self, text: str) -> list[int]:
    return self._processor.EncodeAsIds(self.to_markers(text))

  def decode(self, ids: Iterable[int]) -> str:
    kept = _ids_of_text(ids, self.vocab_size)
    return self.from_markers(self._processor.DecodeIds(kept))


# --- what a vocabulary can write -----------------------------------------------


def can_write(vocabulary: Vocabulary, text: str) -> bool:
  """Whether a student who writes every token of `text` right writes `text`.

  Up to what `text_normalization.normal` makes the same.
  """
  ids = vocabulary.encode(text)
  if EOS_ID in ids or (vocabulary.unk_id in ids):
    return False
  return text_normalization.same(vocabulary.decode(ids), text)


def missing_characters(vocabulary: Vocabulary, text: str) -> list[str]:
  """The characters of `text` that the vocabulary cannot write, in their order.

  `</s>` is the end of a sequence and no text.
  """
  found = dict.fromkeys(text.replace(EOS_TEXT, ""))
  return [char for char in found if not can_write(vocabulary, char)]


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
      f" ({error.strerror or error}); a vocabulary must be {_NAMES} or the path"
      " of a local .model file",
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
      f" {_NAMES} or the path of one",
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


def _user_defined_piece(text: str) -> bytes:
  """A serialised piece, to be appended to a serialised model.

  A model file is a protocol buffer whose field 1 repeats the pieces, and
  concatenating two serialised messages concatenates their repeated fields
  (protobuf.dev, "Encoding", last one wins and repeated fields). So pieces
  need no protobuf package, only: piece = 1 (string), score = 2 (float),
  type = 3 (enum, 4 = user defined).
  """
  data = text.encode()
  body = b"\x0a" + bytes([len(data)]) + data
  body += b"\x15" + struct.pack("<f", 0.0) + b"\x18\x04"
  return b"\x0a" + bytes([len(body)]) + body


def extends(vocabulary: Vocabulary, other: Vocabulary) -> bool:
  """Whether a student of `other` can learn on with `vocabulary`.

  It can if the ids that stand for text stand for the same; sentinels, which
  fine-tuning does not use, may differ where no added tokens follow them.
  """
  pieces = [
    known.name.partition("extra_ids=")[0] for known in (vocabulary, other)
  ]
  known_tokens = getattr(other, "added_tokens", ())
  tokens = getattr(vocabulary, "added_tokens", ())
  return pieces[0] == pieces[1] and (
    not known_tokens
    or (
      other.extra_ids == vocabulary.extra_ids
      and tokens[: len(known_tokens)] == known_tokens
    )
  )


# Datasets that come with a vocabulary of their own.
_DEFAULTS = {
  "taxonli": "taxonli",
  **dict.fromkeys(
    ("kinds", "fits", "odd_one", "places", "sums", "counts"), "families"
  ),
}


def default_name(dataset: str) -> str:
  """The vocabulary of a dataset when a configuration names none."""
  return _DEFAULTS.get(dataset, "bytes")


def set_default(dataset: str, name: str) -> None:
  """Makes `name` the vocabulary of a dataset whose configuration has none."""
  _DEFAULTS[dataset] = name


@functools.lru_cache(maxsize=16)
def _cached(
  kind: str, path: str, extra_ids: int, added: tuple[str, ...], stamp: Any
) -> Vocabulary:
  del stamp  # a changed file is another key
  if kind == "bytes":
    return ByteVocabulary(extra_ids)
  return SentencePieceVocabulary(path, extra_ids, added)


class NameParts(NamedTuple):
  """A vocabulary's name taken apart.

  Attributes:
    base: "bytes", the name of a shipped model, or a path.
    extra_ids: number of sentinels.
    added_tokens: texts that get an id each.
  """

  base: str
  extra_ids: int = 0
  added_tokens: tuple[str, ...] = ()

  def __str__(self) -> str:
    """The name: `spiece.model:100+["{"]`."""
    added = f"+{json.dumps(self.added_tokens)}" if self.added_tokens else ""
    return f"{self.base}:{self.extra_ids}{added}"


def split_name(name: str) -> NameParts:
  """Takes `'NAME:100+["{", "}"]'` apart.

  Raises:
    UserError: what follows the + is no JSON list of texts.
  """
  base, plus, listed = name.partition("+[")
  added: Any = ()
  if plus:
    try:
      # A line break may stand for itself: gin has read the text before.
      added = json.loads(f"[{listed}", strict=False)
    except (ValueError, RecursionError):
      added = None
    if not isinstance(added, list) or not all(
      isinstance(token, str) for token in added
    ):
      raise UserError(
        f"vocabulary is {name!r}; added tokens must be a JSON list of texts"
        ' after a +, such as spiece.model:100+["{", "}", "\\n"]',
        fields=_FIELD,
      )
  match = re.fullmatch(r"(.+?):(\d{1,6})", base)
  if match:
    return NameParts(match.group(1), int(match.group(2)), tuple(added))
  return NameParts(base, 0, tuple(added))


def model_path(name: str) -> pathlib.Path | None:
  """The file behind a vocabulary's name; None for bytes."""
  base = split_name(name).base
  if base == "bytes":
    return None
  return _SHIPPED.get(base) or pathlib.Path(base)


def from_name(name: str | Vocabulary) -> Vocabulary:
  """The vocabulary that a configuration names.

  Args:
    name: `"bytes"`, `"taxonli"` or `"families"` (the models of the generated
      datasets) or the path of a SentencePiece model; `:N` after any of them adds N extra
      ids, and `+["{", "\\n"]`, a JSON list, adds tokens to a SentencePiece
      model (see `SentencePieceVocabulary`). T5's own vocabulary is
      `"/path/to/spiece.model:100"`. A vocabulary object is returned as it is.

  Raises:
    UserError: no such name or file, or something else.
  """
  if isinstance(name, Vocabulary) and not isinstance(name, type):
    return name
  if not isinstance(name, str):
    raise UserError(
      f"vocabulary is {name!r}; it must be {_NAMES} or the path of a"
      " SentencePiece model, or a vocabulary object",
      fields=_FIELD,
    )
  base, extra_ids, added = split_name(name)
  path = model_path(name)
  if path is None:
    if added:
      raise UserError(
        f"vocabulary is {name!r}; bytes write every text, so no token can be"
        " added to them",
        fields=_FIELD,
      )
    return _cached("bytes", "", extra_ids, (), None)
  if not path.is_file():
    raise UserError(
      f"vocabulary is {base!r}, which is none of {_NAMES} and no SentencePiece"
      " model file on this machine",
      fields=_FIELD,
    )
  stat = path.stat()
  stamp = (stat.st_mtime_ns, stat.st_size)
  return _cached("sentencepiece", str(path), extra_ids, added, stamp)


def with_eos(ids: Sequence[int], max_length: int | None) -> list[int]:
  """Truncates `ids` to leave room for, and appends, the end id.

  Args:
    ids: token ids.
    max_length: tokens allowed, the end id included; None for no limit.
  """
  if max_length is not None:
    ids = ids[: max(max_length - 1, 0)]
  return [*ids, EOS_ID]
