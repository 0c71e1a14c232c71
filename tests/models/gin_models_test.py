"""The model files: T5's published sizes, by T5X's names."""

import functools

import jax
import pytest
from gin import config_parser

from dss_jax.models.config import T5Config
from dss_jax.models.encoder_decoder import EncoderDecoderModel

# Parameters of the checkpoints published on the Hugging Face hub (embedding
# table of 32,128 rows).
PUBLISHED = {
  "t5_1_0/small": 60_506_624,
  "t5_1_0/base": 222_903_552,
  "t5_1_0/large": 737_668_096,
  "t5_1_0/3B": 2_851_598_336,
  "t5_1_0/11B": 11_307_321_344,
  "t5_1_1/small": 76_961_152,
  "t5_1_1/base": 247_577_856,
  "t5_1_1/large": 783_150_080,
  "t5_1_1/xl": 2_849_757_184,
  "t5_1_1/xxl": 11_135_332_352,
}


def _bindings(folder, path):
  """{(scope and name, parameter): value}, later statements overriding.

  Read with gin's own parser, without its global registry.
  """
  found = {}

  class Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, name, evaluate):
      return f"@{name}{'()' if evaluate else ''}"

    def macro(self, name):
      return f"%{name}"

  text = (folder / path).read_text()
  for statement in config_parser.ConfigParser(text, Delegate()):
    if isinstance(statement, config_parser.IncludeStatement):
      found.update(_bindings(folder, statement.filename))
    elif isinstance(statement, config_parser.BindingStatement):
      found[statement.selector, statement.arg_name or ""] = statement.value
  return found


def _config(folder, path, **overrides):
  fields = {
    parameter: value
    for (selector, parameter), value in _bindings(folder, path).items()
    if selector == "network.T5Config"
  }
  assert fields["dropout_rate"] == "%DROPOUT_RATE"
  return T5Config(**{**fields, "dropout_rate": 0.1, **overrides})


@pytest.fixture(scope="module")
def folder(repository):
  return repository / "gin"


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_their_number_of_parameters(folder, size):
  # Scanned, to trace one layer instead of up to 48; the count is the same.
  config = _config(folder, f"models/{size}.gin", scan_layers=True)
  model = EncoderDecoderModel(config)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == PUBLISHED[size]
  assert config.dtype == "bfloat16"


@pytest.mark.parametrize("family", ["t5_1_0", "t5_1_1"])
def test_families(folder, family):
  config = _config(folder, f"models/{family}/tiny.gin")
  relu = family == "t5_1_0"
  activations = ("relu",) if relu else ("gelu", "linear")
  assert config.mlp_activations == activations
  assert config.logits_via_embedding == relu
  assert (config.emb_dim, config.head_dim, config.mlp_dim) == (8, 3, 16)


def test_small_students_as_designed(folder):
  sizes = functools.partial(
    T5Config, mlp_activations=("gelu", "linear"), dropout_rate=0.1
  )
  assert _config(folder, "models/bench.gin") == sizes(
    vocab_size=32128,
    emb_dim=256,
    num_heads=4,
    head_dim=64,
    mlp_dim=512,
    num_encoder_layers=4,
    num_decoder_layers=4,
  )
  small = _config(folder, "models/small_cpu.gin")
  assert small == sizes(
    vocab_size=384,
    emb_dim=128,
    num_heads=4,
    head_dim=32,
    mlp_dim=256,
    num_encoder_layers=3,
    num_decoder_layers=3,
  )
  shapes = jax.eval_shape(EncoderDecoderModel(small).init, jax.random.key(0))
  # The file's comment has this number.
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 1_280_384
  taxonli = _config(folder, "models/taxonli.gin")
  assert taxonli == sizes(
    vocab_size=taxonli.vocab_size,
    emb_dim=48,
    num_heads=3,
    head_dim=16,
    mlp_dim=96,
    num_encoder_layers=2,
    num_decoder_layers=2,
  )


def test_every_file_has_t5x_macros(folder):
  files = sorted((folder / "models").rglob("*.gin"))
  assert len(files) == 6 + 6 + 5
  for file in files:
    path = str(file.relative_to(folder))
    bindings = _bindings(folder, path)
    assert bindings["MODEL", ""] == "@models.EncoderDecoderModel()"
    assert bindings["models.EncoderDecoderModel", "config"] == (
      "@network.T5Config()"
    )
    own = {
      "models/taxonli.gin": "taxonli",
      "models/families.gin": "families",
      "models/from_checkpoint.gin": "%gin.REQUIRED",
    }
    assert bindings["VOCABULARY", ""] == own.get(path, "bytes")
    assert bindings["OPTIMIZER", ""] == "@adafactor.Adafactor()"
    assert bindings["Z_LOSS", ""] == 0.0001
    assert bindings["LABEL_SMOOTHING", ""] == 0.0
    assert bindings["LOSS_NORMALIZING_FACTOR", ""] == "subtask_tokens"
    assert bindings["DROPOUT_RATE", ""] == "%gin.REQUIRED"


def test_sizes_are_short_overrides_of_base(folder):
  for file in (folder / "models").rglob("*.gin"):
    if file.name == "base.gin":
      continue
    lines = [
      line
      for line in file.read_text().splitlines()
      if line and not line.startswith("#")
    ]
    assert len(lines) <= 12, file
    base = "taxonli.gin" if file.name == "families.gin" else "t5_1_"
    assert lines[0].startswith(f"include 'models/{base}"), file
