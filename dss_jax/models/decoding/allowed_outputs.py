"""What decoding may write: only members of a closed set of token sequences.

A constraint is a few pure functions over one int32 of state a sequence, which
decoding carries along and reorders with its beams:

    trie = Trie.from_sequences([vocabulary.encode(label) for label in labels])
    tokens, scores = decoding.greedy(
      step, cache, max_decode_length=trie.longest, constrain=trie
    )

Scores stay the model's own: the log-probability of a sequence over the whole
vocabulary, not among the members.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.base.special_ids import EOS_ID, PAD_ID

Array = jax.Array

# Stands for no token, where a state allows fewer tokens than others do.
NO_TOKEN = -1


class Constraint(Protocol):
  """What decoding asks of a constraint; `Trie` is one.

  Pure functions of arrays, traced within the decoding loop. One that is a
  pytree may be an argument of a jitted function.
  """

  @property
  def longest(self) -> int:
    """Tokens of the longest sequence that is allowed, EOS included."""
    ...

  def start(self, examples: int) -> Array:
    """States [examples] int32, before the first token of each example."""
    ...

  def allowed(self, states: Array) -> Array:
    """[n] states -> the tokens that may come next, [n, width] int32.

    In ascending order; NO_TOKEN fills the rest. One that has not ended has at
    least one.
    """
    ...

  def advance(self, states: Array, tokens: Array) -> Array:
    """[n] states and the tokens [n] that were chosen -> the next states [n]."""
    ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trie:
  """The prefixes of a closed set of sequences.

  Nodes are numbered breadth first from the root, 0, so that the k-th edge leads
  to the node `k + 1` and needs no table of its own.

  Attributes:
    tokens: [edges + width] int32, of all edges by their node, ascending.
    first_edge: [nodes] int32, of each node.
    num_edges: [nodes] int32, of each node.
    width: the most edges of a node; static.
    longest: tokens of the longest sequence, EOS included; static.
  """

  tokens: Any
  first_edge: Any
  num_edges: Any
  width: int = dataclasses.field(metadata={"static": True})
  longest: int = dataclasses.field(metadata={"static": True})

  @classmethod
  def from_sequences(
    cls, sequences: Sequence[Sequence[int]], *, eos_id: int = EOS_ID
  ) -> Trie:
    """Makes the trie of a set.

    Args:
      sequences: token ids of each member; EOS is added where it is not there.
      eos_id: the token that ends a sequence.

    Raises:
      UserError: there is no member, or one that no output could be.
    """
    nodes = [_nested(sequences, eos_id)]
    tokens: list[int] = []
    first_edge: list[int] = []
    num_edges: list[int] = []
    # The list grows while it is read, which visits nodes breadth first.
    for node in nodes:
      first_edge.append(len(tokens))
      num_edges.append(len(node))
      for token in sorted(node):
        tokens.append(token)
        nodes.append(node[token])
    width = max(num_edges)
    return cls(
      tokens=np.array([*tokens, *[NO_TOKEN] * width], np.int32),
      first_edge=np.array(first_edge, np.int32),
      num_edges=np.array(num_edges, np.int32),
      width=width,
      longest=max(len(_with_eos(sequence, eos_id)) for sequence in sequences),
    )

  def start(self, examples: int) -> Array:
    """See `Constraint.start`."""
    return jnp.zeros((examples,), jnp.int32)

  def allowed(self, states: Array) -> Array:
    """See `Constraint.allowed`."""
    place = jnp.arange(self.width)
    first = jnp.take(jnp.asarray(self.first_edge), states)
    count = jnp.take(jnp.asarray(self.num_edges), states)
    tokens = jnp.take(jnp.asarray(self.tokens), first[:, None] + place)
    return jnp.where(place < count[:, None], tokens, NO_TOKEN)

  def advance(self, states: Array, tokens: Array) -> Array:
    """See `Constraint.advance`; other tokens leave the state as it is."""
    found = self.allowed(states) == tokens[:, None]
    first = jnp.take(jnp.asarray(self.first_edge), states)
    next_states = 1 + first + jnp.argmax(found, axis=1)
    return jnp.where(jnp.any(found, axis=1), next_states, states).astype(
      jnp.int32
    )


def allowed_logits(logits: Array, allowed: Array) -> Array:
  """Logits [..., width] of the tokens that are allowed; -inf at NO_TOKEN.

  Args:
    logits: [..., vocab].
    allowed: [..., width] int32.
  """
  values = jnp.take_along_axis(logits, jnp.maximum(allowed, 0), axis=-1)
  return jnp.where(allowed == NO_TOKEN, -jnp.inf, values)


def _with_eos(sequence: Sequence[int], eos_id: int) -> list[int]:
  tokens = [int(token) for token in sequence]
  return tokens if tokens[-1:] == [eos_id] else [*tokens, eos_id]


def _nested(sequences: Sequence[Sequence[int]], eos_id: int) -> dict[int, Any]:
  """token -> what may follow it, the same again."""
  root: dict[int, Any] = {}
  for sequence in sequences:
    tokens = _with_eos(sequence, eos_id)
    if eos_id in tokens[:-1] or any(t < 0 or t == PAD_ID for t in tokens):
      raise UserError(
        f"a constraint has the token ids {tokens}, which no output can be:"
        f" they must be positive, with the end id {eos_id} only at the end"
      )
    node = root
    for token in tokens:
      node = node.setdefault(token, {})
  if not root:
    raise UserError("a constraint has no sequences; it must allow one at least")
  return root
