"""Our student computes and decodes what Hugging Face's and T5X's do.

Hugging Face: from committed numbers (`fixtures/parity`), and live where the
`hf` extra is installed. T5X: from its own checkpoint and numbers.
"""

import functools

import huggingface_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.models.config import T5Config
from dss_jax.models.decoding import beam_search, token_by_token
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.pretrained import huggingface_weights
from dss_jax.pretrained.t5x_checkpoints import load_t5x

FAMILIES = ("t5_1_0", "t5_1_1")


def _family(recipe, name):
  return next(f for f in recipe.FAMILIES if f.name == name)


@pytest.fixture(scope="module", params=FAMILIES)
def committed(request, fixtures, recipe):
  """(family, its committed arrays)."""
  file = fixtures / "parity" / f"{request.param}.npz"
  with np.load(file) as arrays:
    return _family(recipe, request.param), dict(arrays)


class _Student:
  """Our student with the weights among `arrays`, compiled as needed."""

  def __init__(self, family, arrays):
    self.config = T5Config(**family.config_fields())
    self.model = EncoderDecoderModel(self.config)
    weights = {
      name.removeprefix("weights/"): array
      for name, array in arrays.items()
      if name.startswith("weights/")
    }
    self.params = huggingface_folders.params(weights, self.config)
    self.searches = {}

  def logits(self, encoder, decoder):
    batch = {
      "encoder_input_tokens": encoder,
      "decoder_input_tokens": decoder,
    }
    return np.asarray(jax.jit(self.model.apply)(self.params, batch))

  def _search(self, *setting):
    if setting not in self.searches:
      self.searches[setting] = self._compiled_search(*setting)
    return self.searches[setting]

  def _compiled_search(self, num_beams, length, early_stopping):
    @jax.jit
    def search(params, tokens, length_penalty):
      encoded = self.model.encode(params, tokens)
      cache = self.model.init_cache(params, encoded, tokens, length)
      step = functools.partial(self.model.decode_step, params)
      if num_beams is None:
        return token_by_token.greedy(step, cache, max_decode_length=length)
      return beam_search.beam_search(
        step,
        cache,
        max_decode_length=length,
        num_beams=num_beams,
        length_penalty=length_penalty,
        convention="huggingface",
        early_stopping=early_stopping,
      )

    return search

  def greedy(self, tokens, length):
    return self._search(None, length, False)(self.params, tokens, 0.0)[0]

  def beams(self, tokens, length, num_beams, length_penalty, early_stopping):
    search = self._search(num_beams, length, early_stopping)
    return search(self.params, tokens, jnp.float32(length_penalty))


def _compare(recipe, family, arrays, stopping_rules=(False, True, "never")):
  """The fixture's numbers against ours; beam search by these rules."""
  student = _Student(family, arrays)
  encoder = arrays["encoder_input_tokens"]
  logits = student.logits(encoder, arrays["decoder_input_tokens"])
  np.testing.assert_allclose(logits, arrays["logits"], atol=1e-4)
  length = recipe.MAX_NEW_TOKENS
  np.testing.assert_array_equal(
    student.greedy(encoder, length), arrays["greedy_tokens"]
  )
  for i, (length_penalty, stopping) in enumerate(recipe.BEAM_SETTINGS):
    if stopping not in stopping_rules:
      continue
    tokens, scores = student.beams(
      encoder, length, recipe.NUM_BEAMS, length_penalty, stopping
    )
    setting = f"length_penalty {length_penalty}, early_stopping {stopping}"
    np.testing.assert_array_equal(
      tokens, arrays[f"beam_tokens/{i}"], err_msg=setting
    )
    np.testing.assert_allclose(
      scores, arrays[f"beam_scores/{i}"], rtol=1e-5, err_msg=setting
    )


def test_committed_decodes_are_not_degenerate(recipe, committed):
  recipe.check(committed[1])


@pytest.mark.parametrize(
  ("name", "stopping_rules"),
  [
    pytest.param("t5_1_1", (False, True, "never"), marks=pytest.mark.slow),
    ("t5_1_1", ()),
    pytest.param("t5_1_0", (), marks=pytest.mark.slow),
    pytest.param("t5_1_0", (False, True, "never"), marks=pytest.mark.slow),
  ],
)
def test_logits_and_decodes_equal_hugging_faces(
  recipe, fixtures, name, stopping_rules
):
  with np.load(fixtures / "parity" / f"{name}.npz") as arrays:
    _compare(recipe, _family(recipe, name), dict(arrays), stopping_rules)


def test_fixture_files_are_small(fixtures):
  files = list((fixtures / "parity").glob("*.npz"))
  assert len(files) == 2
  assert sum(file.stat().st_size for file in files) < 300_000


# ------------------------------------------------------------ Hugging Face live


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_live_hugging_face_agrees(recipe, name):
  torch = pytest.importorskip("torch")
  pytest.importorskip("transformers", minversion="5.0")
  family = _family(recipe, name)
  model = recipe.make_model(family)
  arrays = recipe.decode_all(family, model)
  _compare(recipe, family, arrays)
  # Long rows too, where distant positions share buckets.
  rng = np.random.default_rng(0)
  encoder = rng.integers(2, family.vocab_size, (2, 170)).astype(np.int32)
  decoder = rng.integers(2, family.vocab_size, (2, 150)).astype(np.int32)
  encoder[1, 140:] = 0
  student = _Student(family, arrays)
  np.testing.assert_allclose(
    student.logits(encoder, decoder),
    recipe.teacher_forced(model, encoder, decoder),
    atol=1e-4,
  )
  # And back: their model with our weights is the model they came from.
  exported = huggingface_weights.to_huggingface(student.params, student.config)
  other = recipe.make_model(family)
  with torch.no_grad():
    for parameter in other.parameters():
      parameter.zero_()
  missing, unexpected = other.load_state_dict(
    {k: torch.tensor(v) for k, v in exported.items()}, strict=False
  )
  assert not unexpected
  copies = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
  assert set(missing) <= copies | ({"lm_head.weight"} if family.tied else set())
  logits = recipe.teacher_forced(
    other, arrays["encoder_input_tokens"], arrays["decoder_input_tokens"]
  )
  np.testing.assert_array_equal(logits, arrays["logits"])


# -------------------------------------------------------------------------- T5X


@pytest.fixture(scope="module")
def t5x(shared_data):
  """(model, params, T5X's numbers)."""
  params, _, _ = load_t5x(shared_data / "t5x_tiny" / "orbax" / "checkpoint_3")
  config = T5Config(
    vocab_size=264,
    emb_dim=32,
    num_heads=3,
    head_dim=8,
    mlp_dim=40,
    num_encoder_layers=2,
    num_decoder_layers=3,
  )
  with np.load(shared_data / "t5x_tiny" / "parity.npz") as arrays:
    return EncoderDecoderModel(config), params, dict(arrays)


@pytest.mark.shared
def test_t5x_logits_loss_and_scores(t5x):
  model, params, arrays = t5x
  names = (
    "encoder_input_tokens",
    "decoder_input_tokens",
    "decoder_target_tokens",
  )
  batch = {name: arrays[name] for name in names}
  logits = np.asarray(jax.jit(model.apply)(params, batch), np.float64)
  # At padded positions too: T5X masks queries as well as keys.
  np.testing.assert_allclose(logits, arrays["logits"], atol=1e-5)
  log_z = np.log(np.exp(logits).sum(-1))
  targets = arrays["decoder_target_tokens"][..., None]
  nll = log_z - np.take_along_axis(logits, targets, axis=-1)[..., 0]
  weights = arrays["decoder_loss_weights"]
  loss = np.sum(weights * (nll + 1e-4 * log_z**2))
  assert loss == pytest.approx(arrays["loss"], rel=1e-6)
  np.testing.assert_allclose(
    -(nll * weights).sum(-1), arrays["score_batch"], rtol=1e-6
  )


@pytest.mark.shared
@pytest.mark.parametrize("num_beams", [1, 4])
def test_t5x_decodes(t5x, num_beams):
  model, params, arrays = t5x

  @jax.jit
  def search(params, tokens):
    encoded = model.encode(params, tokens)
    cache = model.init_cache(params, encoded, tokens, 7)
    return beam_search.beam_search(
      functools.partial(model.decode_step, params),
      cache,
      max_decode_length=7,
      num_beams=num_beams,
    )

  tokens, scores = search(params, arrays["encoder_input_tokens"])
  if num_beams == 1:
    # T5X's `predict_batch` with one decode, its "greedy", is beam search of
    # width 1: it prefers a sequence that ends to a likelier one cut off.
    np.testing.assert_array_equal(tokens[:, 0], arrays["greedy_decodes"])
    return
  # T5X returns the best sequence last.
  np.testing.assert_array_equal(tokens[:, ::-1], arrays["beam4_decodes"])
  np.testing.assert_allclose(scores[:, ::-1], arrays["beam4_scores"], rtol=1e-5)
