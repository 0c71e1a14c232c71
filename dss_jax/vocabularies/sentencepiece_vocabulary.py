"""Vocabularies of SentencePiece models, such as T5's, and added tokens."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.base.special_ids import EOS_ID, PAD_ID, UNK_ID
from dss_jax.vocabularies.vocabulary import (
  EOS_TEXT,
  FIELD,
  check_extra_ids,
  encode_parts,
  ids_of_text,
  valid_text,
)

# T5's model file is 0.8 MB, mT5's 4.3 MB; anything far above is not one.
MAX_MODEL_BYTES = 64 * 2**20
# Added tokens: a handful of characters, or the spaces of a programming language.
MAX_ADDED_TOKENS = 1_000
MAX_ADDED_LENGTH = 100
# Stand for the added tokens inside SentencePiece: private characters, which no
# text of use has.
_FIRST_MARKER = 0x100000
# A marker that a text brings itself; no vocabulary has it.
_NO_CHARACTER = "\ufffd"

# The models that come with the generated datasets.
SHIPPED_MODELS = {
  name: pathlib.Path(__file__).parents[1]
  / "datasets"
  / f"{name}_vocabulary.model"
  for name in ("taxonli", "families")
}
# The vocabularies that need no path, for messages.
NAMES = "'bytes', " + ", ".join(map(repr, SHIPPED_MODELS))


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
    check_extra_ids(self.extra_ids)
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
    return encode_parts(text, self._encode_part, self.eos_id)

  def _encode_part(self, text: str) -> list[int]:
    return self._processor.EncodeAsIds(self.to_markers(text))

  def decode(self, ids: Iterable[int]) -> str:
    kept = ids_of_text(ids, self.vocab_size)
    return self.from_markers(self._processor.DecodeIds(kept))


def marker(index: int) -> str:
  """The character that stands for an added token inside SentencePiece."""
  return chr(_FIRST_MARKER + index)


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
      fields=FIELD,
    )


def _read_model(path: str) -> bytes:
  """Reads a model file of bounded size."""
  file = pathlib.Path(path)
  try:
    size = file.stat().st_size
    if size > MAX_MODEL_BYTES:
      raise UserError(
        f"the SentencePiece model {path} has {size} bytes; at most"
        f" {MAX_MODEL_BYTES} are read",
        fields=FIELD,
      )
    return file.read_bytes()
  except OSError as error:
    raise UserError(
      f"cannot read the SentencePiece model {path!r}"
      f" ({error.strerror or error}); a vocabulary must be {NAMES} or the path"
      " of a local .model file",
      fields=FIELD,
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
      f" {NAMES} or the path of one",
      fields=FIELD,
    ) from error
  if ids != (PAD_ID, EOS_ID, UNK_ID):
    raise UserError(
      f"the SentencePiece model {path!r} has pad, end and unknown ids {ids};"
      f" they must be {(PAD_ID, EOS_ID, UNK_ID)}: train it with these, or"
      " use another",
      fields=FIELD,
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
