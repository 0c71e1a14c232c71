"""Hugging Face folders: sizes found, weights read right, wrong ones refused."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.models.config import T5Config
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.pretrained import huggingface_config, open_pretrained


def _load(folder, **changes):
  opened = open_pretrained(str(folder))
  config = dataclasses.replace(opened.config, **changes)
  return opened, opened.load(EncoderDecoderModel(config))


def _refused(folder, match):
  with pytest.raises(UserError, match=match) as error:
    open_pretrained(str(folder))
  assert "\n" not in str(error.value)
  return error.value


# --------------------------------------------------------------------- reading


@pytest.mark.parametrize("shards", [None, 3])
@pytest.mark.parametrize("family", ["t5_1_1", "t5_1_0", "umt5"])
def test_sizes_are_found_and_weights_read(tmp_path, folders, family, shards):
  config = {
    "t5_1_1": folders.CONFIG,
    "t5_1_0": dataclasses.replace(
      folders.CONFIG, mlp_activations=("relu",), logits_via_embedding=True
    ),
    "umt5": dataclasses.replace(folders.CONFIG, relpos_bias_per_layer=True),
  }[family]
  weights = folders.random_weights(config)
  folders.write(tmp_path / "x", weights, config, shards)
  opened, params = _load(tmp_path / "x")
  assert opened.kind == "huggingface"
  assert opened.config == config
  assert opened.num_parameters == sum(w.size for w in weights.values())
  expected = folders.params(weights, config)
  jax.tree.map(np.testing.assert_array_equal, params, expected)
  # And stacked for scanning.
  scanned = dataclasses.replace(config, scan_layers=True)
  _, params = _load(tmp_path / "x", scan_layers=True)
  expected = folders.params(weights, scanned)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path, folders, dtype):
  weights = folders.random_weights()
  weights = {name: array.astype(dtype) for name, array in weights.items()}
  folders.write(tmp_path / "x", weights)
  _, params = _load(tmp_path / "x")
  kernel = params["decoder"]["logits_dense"]["kernel"]
  assert kernel.dtype == np.float32
  expected = weights["lm_head.weight"].astype(np.float32).T
  np.testing.assert_array_equal(kernel, expected)


# ---------------------------------------------------------- tied, scaled or not


@pytest.mark.parametrize(
  ("head", "changes", "tied", "scale"),
  [
    # As transformers 4 writes T5 1.0 and 1.1.
    ("none", {"tie_word_embeddings": True}, True, 1),
    ("own", {"tie_word_embeddings": False}, False, 1),
    # T5 1.0 in files that store the table twice.
    ("copy", {}, True, 1),
    # A T5 1.1 made by transformers 5: one table, nothing scaled.
    (
      "none",
      {"tie_word_embeddings": True, "scale_decoder_outputs": False},
      False,
      1,
    ),
    ("copy", {"tie_word_embeddings": False}, False, 1),
    # A projection of its own where the configuration says tied.
    (
      "own",
      {"tie_word_embeddings": True, "scale_decoder_outputs": False},
      False,
      1,
    ),
    ("own", {"tie_word_embeddings": True}, False, 12**-0.5),
    # mT5: transformers 5 writes True and scales nothing.
    (
      "own",
      {
        "model_type": "mt5",
        "tie_word_embeddings": True,
        "transformers_version": "5.23.0",
      },
      False,
      1,
    ),
    (
      "none",
      {
        "model_type": "mt5",
        "tie_word_embeddings": True,
        "transformers_version": "4.57.0",
      },
      True,
      1,
    ),
    # As version 5 reads it.
    ("own", {"model_type": "mt5", "tie_word_embeddings": True}, False, 1),
  ],
)
def test_output_projection(tmp_path, folders, head, changes, tied, scale):
  weights = folders.random_weights()
  if head == "none":
    del weights["lm_head.weight"]
  if head == "copy":
    weights["lm_head.weight"] = weights["shared.weight"]
  folders.write(
    tmp_path / "x", weights, **({"tie_word_embeddings": None} | changes)
  )
  opened, params = _load(tmp_path / "x")
  assert opened.config.logits_via_embedding == tied
  assert ("logits_dense" in params["decoder"]) != tied
  if not tied:
    own = weights.get("lm_head.weight", weights["shared.weight"])
    np.testing.assert_array_equal(
      params["decoder"]["logits_dense"]["kernel"], own.T * np.float32(scale)
    )


@pytest.mark.parametrize(
  ("changes", "scales"),
  [
    ({"tie_word_embeddings": False}, False),
    ({"tie_word_embeddings": True}, True),
    # Version 4 leaves out what is its default, which for UMT5 is true.
    ({"tie_word_embeddings": None}, True),
    ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
    # As transformers 5.24 writes a UMT5 whose projection was untied.
    ({"tie_word_embeddings": False, "scale_decoder_outputs": True}, True),
  ],
)
def test_umt5s_that_scale(folders, changes, scales):
  content = folders.config_json(folders.CONFIG, model_type="umt5") | changes
  path = pathlib.Path("config.json")
  assert huggingface_config.parse(content, path)[1] == scales


def test_the_table_may_lie_under_its_other_names(tmp_path, folders):
  weights = folders.random_weights()
  weights["encoder.embed_tokens.weight"] = weights.pop("shared.weight")
  folders.write(tmp_path / "x", weights)
  _, params = _load(tmp_path / "x")
  np.testing.assert_array_equal(
    params["token_embedder"]["embedding"],
    weights["encoder.embed_tokens.weight"],
  )
  weights["shared.weight"] = weights["encoder.embed_tokens.weight"] + 1
  folders.write(tmp_path / "y", weights)
  _refused(tmp_path / "y", "share one table")


@pytest.mark.parametrize(
  ("changes", "activations"),
  [
    ({"feed_forward_proj": "gated-gelu"}, ("gelu", "linear")),
    ({"feed_forward_proj": "gated-silu"}, ("silu", "linear")),
    ({"feed_forward_proj": "gated-relu"}, ("relu", "linear")),
    (
      {
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
      },
      ("gelu", "linear"),
    ),
    ({"feed_forward_proj": None, "model_type": "mt5"}, ("gelu", "linear")),
  ],
)
def test_activations(tmp_path, folders, changes, activations):
  folders.write(tmp_path / "x", **changes)
  assert open_pretrained(str(tmp_path / "x")).config.mlp_activations == (
    activations
  )


# -------------------------------------------------------------------- refusing


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"model_type": "bart"}, "model of type 'bart'"),
    ({"model_type": None}, "model of type None"),
    ({"relative_attention_num_buckets": 64}, "num_buckets 64; it must be 32"),
    ({"relative_attention_max_distance": 256}, "max_distance 256"),
    ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon 1e-05"),
    ({"pad_token_id": 3}, "pad_token_id 3"),
    ({"eos_token_id": 2}, "eos_token_id 2"),
    ({"decoder_start_token_id": 5}, "decoder_start_token_id 5"),
    ({"feed_forward_proj": "gelu"}, "activation 'gelu'"),
    ({"feed_forward_proj": 3}, "activation 3"),
    ({"feed_forward_proj": "gated-mish"}, "activation 'mish'"),
    ({"d_model": 0}, "d_model 0"),
    ({"d_model": "12"}, "d_model '12'"),
    ({"d_model": True}, "d_model True"),
    ({"d_model": 10**30}, "d_model 1000"),
    ({"d_ff": None}, "d_ff None"),
    ({"num_layers": 2**30}, "1073741824 layers"),
    ({"num_decoder_layers": 2**30}, "1073741824 layers"),
    ({"quantization_config": {"bits": 8}}, "quantized"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings 'false'; it must"),
    ({"scale_decoder_outputs": 0}, "scale_decoder_outputs 0; it must"),
    ({"is_gated_act": "no"}, "is_gated_act 'no'; it must"),
  ],
)
def test_another_architecture(tmp_path, folders, changes, match):
  folders.write(tmp_path / "x", **changes)
  _refused(tmp_path / "x", match)


def test_weights_that_do_not_fit_their_config_are_listed(tmp_path, folders):
  weights = folders.random_weights()
  del weights["decoder.final_layer_norm.weight"]
  weights["adapter.weight"] = np.zeros((2, 3), np.float32)
  folders.write(tmp_path / "x", weights, d_ff=15)
  error = _refused(tmp_path / "x", "do not fit its config.json")
  assert "missing" in str(error)
  table = error.details.splitlines()
  assert table[0].split() == ["parameter", "problem", "weights", "config.json"]
  assert [line.split()[:2] for line in table[1:]] == [
    ["decoder/decoder_norm/scale", "missing"],
    ["adapter.weight", "extra"],
    ["decoder/layers_{0-2}/mlp/wi_0/kernel", "differs"],
    ["decoder/layers_{0-2}/mlp/wi_1/kernel", "differs"],
    ["decoder/layers_{0-2}/mlp/wo/kernel", "differs"],
    ["encoder/layers_{0-1}/mlp/wi_0/kernel", "differs"],
    ["encoder/layers_{0-1}/mlp/wi_1/kernel", "differs"],
    ["encoder/layers_{0-1}/mlp/wo/kernel", "differs"],
  ]
  assert table[3].endswith("[12, 14]  [12, 15]")


def test_quantized_weights(tmp_path, folders):
  weights = folders.random_weights()
  weights["lm_head.weight"] = weights["lm_head.weight"].astype(np.int8)
  folders.write(tmp_path / "x", weights)
  _refused(tmp_path / "x", "lm_head.weight as int8")


def test_names_are_shown_in_one_line(tmp_path, folders):
  more = {"a\n\x1b[31mb": np.zeros(2, np.int8)}
  folders.write(tmp_path / "x", folders.random_weights() | more)
  assert "\x1b" not in str(_refused(tmp_path / "x", "as int8"))


def test_tables_that_are_none(tmp_path, folders):
  weights = {name: np.float32(1) for name in folders.random_weights()}
  folders.write(tmp_path / "x", weights)
  _refused(tmp_path / "x", "do not fit its config.json")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(tmp_path, folders, value):
  weights = folders.random_weights()
  weights["encoder.final_layer_norm.weight"][3] = value
  folders.write(tmp_path / "x", weights)
  opened = open_pretrained(str(tmp_path / "x"))
  with pytest.raises(UserError, match="encoder_norm/scale in the checkpoint"):
    opened.load(EncoderDecoderModel(opened.config))


@pytest.mark.parametrize("version", ["²", "9" * 5000, "4.57.1", 5, None])
def test_any_version_of_transformers(tmp_path, folders, version):
  changes = {"model_type": "mt5", "transformers_version": version}
  folders.write(tmp_path / "x", **changes)
  open_pretrained(str(tmp_path / "x"))


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"{",
    b"[1, 2]",
    b"\xff\xfe",
    b'{"a": NaN}',
    b'{"model_type": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"model_type": "t5", "d_model": ' + b"9" * 10_000 + b"}",
    b" " * (2**20 + 1),
  ],
)
def test_a_broken_config(tmp_path, folders, content):
  folders.write(tmp_path / "x")
  (tmp_path / "x" / "config.json").write_bytes(content)
  _refused(tmp_path / "x", "config.json")


def test_no_weights(tmp_path, folders):
  folders.write(tmp_path / "x")
  (tmp_path / "x" / "model.safetensors").unlink()
  _refused(tmp_path / "x", "no weights")
  _refused(tmp_path / "absent", "is no folder")
  (tmp_path / "empty").mkdir()
  _refused(tmp_path / "empty", "holds no checkpoint")


# ----------------------------------------------------------------------- shards


@pytest.mark.parametrize(
  "name",
  [
    "../x.safetensors",
    "/etc/passwd",
    "a/b",
    "..",
    "",
    ".hidden",
    "a\0b",
    "x" * 999,
  ],
)
def test_an_index_that_leads_out_of_the_folder(tmp_path, folders, name):
  folder = folders.write(tmp_path / "x", shards=2)
  index = folder / "model.safetensors.index.json"
  content = json.loads(index.read_text())
  content["weight_map"]["shared.weight"] = name
  index.write_text(json.dumps(content))
  _refused(folder, "no plain file name")


def test_links_that_lead_out_of_the_folder(tmp_path, folders):
  folder = folders.write(tmp_path / "x")
  secret = tmp_path / "secret"
  os.rename(folder / "model.safetensors", secret)
  (folder / "model.safetensors").symlink_to(secret)
  _refused(folder, "leads out of its folder")


def test_links_within_the_hubs_cache_are_followed(tmp_path, folders):
  snapshot = folders.write(tmp_path / "models--a--b" / "snapshots" / "0123")
  blobs = tmp_path / "models--a--b" / "blobs"
  blobs.mkdir()
  for name in ("config.json", "model.safetensors"):
    os.rename(snapshot / name, blobs / name)
    (snapshot / name).symlink_to(f"../../blobs/{name}")
  assert open_pretrained(str(snapshot)).config == folders.CONFIG


def test_shards_that_are_missing_or_lack_an_array(tmp_path, folders):
  folder = folders.write(tmp_path / "x", shards=2)
  index = folder / "model.safetensors.index.json"
  content = json.loads(index.read_text())
  other = dict(
    content,
    weight_map=dict(
      content["weight_map"], more="model-00001-of-00002.safetensors"
    ),
  )
  index.write_text(json.dumps(other))
  _refused(folder, "lacks the array 'more'")
  index.write_text(json.dumps({"weight_map": [1]}))
  _refused(folder, "no 'weight_map'")
  index.write_text(json.dumps(content))
  (folder / "model-00001-of-00002.safetensors").unlink()
  _refused(folder, "lacks 'model-00001-of-00002.safetensors'")


# ------------------------------------------------------------------- the student


def test_another_students_checkpoint_is_listed_with_what_to_set(
  tmp_path, folders
):
  from dss_jax import vocabularies
  from dss_jax.training import initialization

  folders.write(tmp_path / "x")
  student = EncoderDecoderModel(
    dataclasses.replace(folders.CONFIG, emb_dim=16, logits_via_embedding=True)
  )
  with pytest.raises(UserError, match="is of another model") as error:
    initialization.load_params(
      str(tmp_path / "x"), student, vocabularies.ByteVocabulary(100)
    )
  message = str(error.value)
  assert "\n" not in message
  assert "emb_dim = 12" in message
  assert "logits_via_embedding = False" in message
  assert set(error.value.fields) == {
    "T5Config.emb_dim",
    "T5Config.logits_via_embedding",
  }
  table = error.value.details
  assert "decoder/logits_dense/kernel" in table
  assert "272 ids" in table
  assert "359 ids" in table


def test_a_student_may_add_tokens_to_the_checkpoints_vocabulary(
  tmp_path, folders
):
  from dss_jax import vocabularies
  from dss_jax.training import initialization

  folder = folders.write(tmp_path / "x")
  model_file = vocabularies.model_path("taxonli")
  assert model_file is not None
  shutil.copy(model_file, folder / "spiece.model")
  model = EncoderDecoderModel(T5Config(**dataclasses.asdict(folders.CONFIG)))
  size = vocabularies.from_name("taxonli").vocab_size
  room = folders.CONFIG.vocab_size - size
  tokens = json.dumps([chr(0x4E00 + i) for i in range(room)])
  initialization.open_initial(
    str(folder), model, vocabularies.from_name(f"taxonli+{tokens}")
  )
  with pytest.raises(UserError, match="vocabulary") as error:
    initialization.open_initial(
      str(folder), model, vocabularies.from_name(f"taxonli:1+{tokens}")
    )
  assert f"{folders.CONFIG.vocab_size + 1} ids" in error.value.details


def test_the_checkpoints_own_vocabulary_is_known(tmp_path, folders):
  from dss_jax import vocabularies
  from dss_jax.training import initialization

  folder = folders.write(tmp_path / "x")
  options = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 13}
  (folder / "tokenizer_config.json").write_text(json.dumps(options))
  assert open_pretrained(str(folder)).vocabulary == "bytes:13"
  model = EncoderDecoderModel(T5Config(**dataclasses.asdict(folders.CONFIG)))
  initialization.open_initial(
    str(folder), model, vocabularies.ByteVocabulary(0)
  )
  with pytest.raises(UserError, match="vocabulary = 'bytes:13'") as error:
    initialization.open_initial(
      str(folder), model, vocabularies.from_name("taxonli")
    )
  assert error.value.fields == ("TrainConfig.vocabulary",)
  assert "sentencepiece(" in error.value.details
