"""Log-probabilities of given outputs: all labels of a closed set in one pass.

Where the candidates are few, this is exact where a constrained search is not,
and takes one pass of the decoder instead of one a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.base.special_ids import EOS_ID, PAD_ID
from dss_jax.models import encoder_decoder
from dss_jax.models.decoding.allowed_outputs import Trie

Array = jax.Array

# Bytes of the logits that exist at once; two or three such arrays are alive.
_MAX_LOGITS_BYTES = 256 * 2**20


def score_sequences(
  model: encoder_decoder.EncoderDecoderModel,
  params: encoder_decoder.Params,
  encoder_input_tokens: encoder_decoder.IntArray,
  candidates: Sequence[Sequence[int]] | Array | np.ndarray,
) -> Array:
  """The log-probability of each candidate for each example.

  The inputs are encoded once. Jit it with the candidates fixed:

      jax.jit(lambda params, tokens: score_sequences(model, params, tokens, c))

  Args:
    model: the student.
    params: its parameters.
    encoder_input_tokens: [batch, inputs] int32, 0 = padding.
    candidates: the same for all examples: token ids of each (EOS is added where
      it is not there), whose common beginnings are computed once. Or those of
      each example: an array [batch, candidates, length] int32, EOS included,
      padded with 0; rows of padding alone score 0.

  Returns:
    [batch, candidates] float32, EOS included.
  """
  encoded = model.encode(params, encoder_input_tokens)
  if isinstance(candidates, (jax.Array, np.ndarray)):
    return _of_each(model, params, encoded, encoder_input_tokens, candidates)
  tree = _Tree(candidates)
  batch = len(encoder_input_tokens)
  hidden = model.branch_states(
    params,
    encoded,
    encoder_input_tokens,
    jnp.broadcast_to(tree.tokens, (batch, len(tree.tokens))),
    tree.depth,
    tree.mask,
  )
  # The log-probability of each edge follows from the node that it leaves.
  log_probs = _log_probs(
    model,
    params,
    hidden,
    jnp.broadcast_to(tree.next_tokens, (batch, *tree.next_tokens.shape)),
  )
  # [batch, nodes * width] x [nodes * width, candidates]
  return jnp.dot(
    log_probs.reshape(batch, -1), tree.edges_of, precision="highest"
  )


class _Tree:
  """The prefixes of all candidates, laid out in a row.

  Attributes:
    tokens: [nodes] int32, what the decoder reads at each node; 0 at the root.
    depth: [nodes] int, tokens before it.
    mask: [nodes, nodes] bool, the nodes on each one's way from the root.
    next_tokens: [nodes, width] int32, those that follow it; PAD_ID = none.
    edges_of: [nodes * width, candidates] float32, 1 for those of a candidate.
  """

  def __init__(self, candidates: Sequence[Sequence[int]]):
    trie = Trie.from_sequences(candidates)
    # Ends are not read, so they have no place in the row.
    inner = np.flatnonzero(trie.num_edges)
    place = {int(node): i for i, node in enumerate(inner)}
    nodes = len(inner)
    self.tokens = np.zeros(nodes, np.int32)
    self.depth = np.zeros(nodes, np.int64)
    self.mask = np.eye(nodes, dtype=bool)
    self.next_tokens = np.full((nodes, trie.width), PAD_ID, np.int32)
    edge_to: dict[tuple[int, int], int] = {}  # (place, token) -> node
    for node, i in place.items():
      first, count = int(trie.first_edge[node]), int(trie.num_edges[node])
      for k in range(count):
        token, child = int(trie.tokens[first + k]), 1 + first + k
        self.next_tokens[i, k] = token
        edge_to[i, token] = int(child)
        if (j := place.get(int(child))) is not None:
          self.tokens[j], self.depth[j] = token, self.depth[i] + 1
          self.mask[j] |= self.mask[i]
    self.edges_of = np.zeros((nodes, trie.width, len(candidates)), np.float32)
    for c, candidate in enumerate(candidates):
      i = 0
      tokens = [int(token) for token in candidate]
      for token in tokens if tokens[-1:] == [EOS_ID] else [*tokens, EOS_ID]:
        k = int(np.flatnonzero(self.next_tokens[i] == token)[0])
        self.edges_of[i, k, c] = 1.0
        i = place.get(edge_to[i, token], -1)
    self.edges_of = self.edges_of.reshape(-1, len(candidates))


def _of_each(model, params, encoded, encoder_input_tokens, candidates) -> Array:
  """Candidates [batch, n, length] side by side in rows of n * length."""
  batch, n, length = candidates.shape
  inputs = jnp.pad(candidates, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
  which = np.repeat(np.arange(n), length)
  depth = np.tile(np.arange(length), n)
  seen = (which[:, None] == which) & (depth[:, None] >= depth)
  hidden = model.branch_states(
    params,
    encoded,
    encoder_input_tokens,
    inputs.reshape(batch, -1),
    depth,
    seen,
  )
  targets = jnp.asarray(candidates).reshape(batch, -1, 1)
  log_probs = _log_probs(model, params, hidden, targets)
  return jnp.sum(log_probs.reshape(batch, n, length), axis=-1)


def _log_probs(model, params, hidden: Array, tokens: Array) -> Array:
  """Log-probabilities of tokens at each position; 0 for padding.

  Args:
    model: the student.
    params: its parameters.
    hidden: [batch, length, emb].
    tokens: [batch, length, n] int32.

  Returns:
    [batch, length, n] float32.
  """
  batch, length, _ = hidden.shape
  slices = _num_slices(batch, length, model.config.vocab_size)

  def of_slice(arrays):
    hidden, tokens = arrays
    logits = model.logits(params, hidden)
    chosen = jnp.take_along_axis(logits, tokens, axis=-1)
    log_probs = chosen - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return jnp.where(tokens == PAD_ID, 0.0, log_probs)

  def cut(x):
    return jnp.moveaxis(x.reshape(batch, slices, -1, x.shape[-1]), 1, 0)

  if slices == 1:
    return of_slice((hidden, tokens))
  parts = jax.lax.map(of_slice, (cut(hidden), cut(tokens)))
  return jnp.moveaxis(parts, 0, 1).reshape(tokens.shape)


def _num_slices(rows: int, length: int, vocab_size: int) -> int:
  """The fewest equal slices of the length whose float32 logits fit."""
  for slices in range(1, length + 1):
    bytes_of_slice = 4 * rows * (length // slices) * vocab_size
    if length % slices == 0 and bytes_of_slice <= _MAX_LOGITS_BYTES:
      return slices
  return length
