"""Sizes and switches of a T5 student; the dataclass checks its own values.

Field names are T5X's (`t5x/examples/t5/network.py` and, for `scan_layers` and
`remat_policy`, `t5x/examples/scalable_t5/network.py`), so that gin bindings
written for T5X carry over.
"""

import dataclasses
from typing import Any

from dss_jax.base import checks
from dss_jax.base.errors import UserError

DTYPES = ("float32", "bfloat16")
ACTIVATIONS = ("linear", "relu", "gelu", "silu", "swish")
REMAT_POLICIES = ("none", "minimal", "full")
DROPOUT_BROADCASTS = ("length", "full")
ATTENTION_IMPLEMENTATIONS = ("auto", "xla", "cudnn", "triton", "flash")

# T5X does not let them be configured either; every published T5 uses these two.
NUM_RELPOS_BUCKETS = 32
MAX_RELPOS_DISTANCE = 128  # tokens; all greater distances share one bucket


@dataclasses.dataclass(frozen=True)
class T5Config:
  """A T5 encoder-decoder, of the 1.0 or the 1.1 family.

  T5 1.0: `mlp_activations=("relu",)`, `logits_via_embedding=True`.
  T5 1.1: `mlp_activations=("gelu", "linear")`, `logits_via_embedding=False`.

  Attributes:
    vocab_size: rows of the embedding table; token ids are in [0, vocab_size).
    dtype: of the activations; parameters are always float32, and so are the
      attention softmax and the returned logits.
    emb_dim: size of the residual stream.
    num_heads: attention heads in every attention layer.
    num_encoder_layers: encoder layers.
    num_decoder_layers: decoder layers; may differ from the encoder's.
    head_dim: size of one head; `num_heads * head_dim` need not be `emb_dim`.
    mlp_dim: hidden size of the feed-forward layers.
    mlp_activations: one activation for each parallel projection of the
      feed-forward layer; their results are multiplied.
    dropout_rate: probability of dropping, in [0, 1).
    logits_via_embedding: use the embedding table, scaled by 1/sqrt(emb_dim),
      as output projection.
    float32_attention_logits: form the query-key products in float32 even
      with bfloat16 activations. (Their softmax is float32 in any case.)
    scan_layers: keep the layers of a stack in one array per parameter, with
      the layers on axis 1, and loop over them: compiles faster, same values.
    remat_policy: what the backward pass recomputes. "none": nothing;
      "minimal": all but the outputs of matrix products with weights; "full":
      everything inside a layer.
    dropout_broadcast: "length": one mask for all positions of a row, as T5X;
      "full": an own mask for each position, as Hugging Face.
    attention_dropout: drop attention probabilities too, as T5X does. With
      dropout_broadcast "full" it needs the probabilities themselves, which only
      the "xla" attention forms.
    attention_implementation: how whole rows attend. "xla": plainly; "cudnn":
      by cuDNN on GPU; "triton" and "flash": by dss_jax's own kernels, on
      GPU and on TPU; "auto": by what is fast and proves itself right on
      the device, else plainly. See docs/attention.md.
    relpos_bias_per_layer: learn a relative position bias in each layer, as
      UMT5 and all of T5X's `scalable_t5`; else one that a stack's layers share.
  """

  vocab_size: int
  dtype: str = "float32"
  emb_dim: int = 512
  num_heads: int = 8
  num_encoder_layers: int = 6
  num_decoder_layers: int = 6
  head_dim: int = 64
  mlp_dim: int = 2048
  mlp_activations: tuple[str, ...] = ("gelu", "linear")
  dropout_rate: float = 0.0
  logits_via_embedding: bool = False
  float32_attention_logits: bool = False
  scan_layers: bool = False
  remat_policy: str = "none"
  dropout_broadcast: str = "length"
  attention_dropout: bool = True
  attention_implementation: str = "auto"
  relpos_bias_per_layer: bool = False

  def __post_init__(self):
    for name in _POSITIVE_INTEGERS:
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _user_error(name, value, "a positive integer")
    for name in _SWITCHES:
      value = getattr(self, name)
      if not isinstance(value, bool):
        raise _user_error(name, value, "True or False")
    for name, allowed in _CHOICES.items():
      checks.one_of(f"T5Config.{name}", getattr(self, name), allowed)
    rate = self.dropout_rate
    is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if not (is_number and 0.0 <= rate < 1.0):
      raise _user_error("dropout_rate", rate, "a number from 0 to below 1")
    self._check_activations()

  def _check_activations(self):
    activations = self.mlp_activations
    allowed = f"one or more of {', '.join(ACTIVATIONS)}"
    is_list = isinstance(activations, (tuple, list)) and activations
    if not (is_list and set(activations) <= set(ACTIVATIONS)):
      raise _user_error("mlp_activations", activations, allowed)
    # A list, as gin may pass, would make the configuration unhashable.
    object.__setattr__(self, "mlp_activations", tuple(activations))

  @property
  def joined_kv_dim(self) -> int:
    """Size of all heads together."""
    return self.num_heads * self.head_dim


_POSITIVE_INTEGERS = (
  "vocab_size",
  "emb_dim",
  "num_heads",
  "num_encoder_layers",
  "num_decoder_layers",
  "head_dim",
  "mlp_dim",
)
_SWITCHES = (
  "attention_dropout",
  "logits_via_embedding",
  "float32_attention_logits",
  "scan_layers",
  "relpos_bias_per_layer",
)
_CHOICES = {
  "dtype": DTYPES,
  "remat_policy": REMAT_POLICIES,
  "dropout_broadcast": DROPOUT_BROADCASTS,
  "attention_implementation": ATTENTION_IMPLEMENTATIONS,
}


def _user_error(name: str, value: Any, allowed: str) -> UserError:
  return UserError(
    f"{name} is {value!r}; it must be {allowed}", fields=f"T5Config.{name}"
  )
