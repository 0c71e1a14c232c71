"""The Hugging Face form, with and without Hugging Face's libraries."""

import dataclasses
import json
import os
import resource
import stat

import huggingface_folders
import jax
import numpy as np
import pytest
import safetensors.numpy as safetensors_numpy

from dss_jax import pretrained
from dss_jax.base.errors import StorageError, UserError
from dss_jax.models import layer_stacking
from dss_jax.models.config import T5Config
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.students.export import formats, huggingface

SMALL = T5Config(vocab_size=272, emb_dim=8, num_heads=2, head_dim=4)


@pytest.mark.parametrize(
  ("activations", "expected"),
  [
    (("relu",), "relu"),
    (("gelu",), "gelu_new"),
    (("gelu", "linear"), "gated-gelu"),
    (("swish", "linear"), "gated-silu"),
    (("relu", "linear"), "gated-relu"),
  ],
)
def test_activations_have_hugging_faces_names(activations, expected):
  config = dataclasses.replace(SMALL, mlp_activations=activations)
  assert huggingface.feed_forward(config) == expected


@pytest.mark.parametrize(
  "activations", [("linear", "gelu"), ("gelu", "linear", "linear")]
)
def test_other_activations_are_refused(activations):
  config = dataclasses.replace(SMALL, mlp_activations=activations)
  with pytest.raises(UserError, match="mlp_activations"):
    huggingface.feed_forward(config)


def test_a_bias_in_each_layer_is_a_umt5(make_student, tmp_path):
  config = dataclasses.replace(SMALL, relpos_bias_per_layer=True)
  student = make_student(config)
  huggingface.write(student, tmp_path)
  opened = pretrained.open_pretrained(str(tmp_path))
  assert opened.config == config
  back = opened.load(student.model)
  jax.tree.map(np.testing.assert_array_equal, back, student.params)


def test_both_keys_say_whether_logits_are_scaled(student):
  value = huggingface.model_config(student)
  tied = student.model.config.logits_via_embedding
  assert value["tie_word_embeddings"] is tied
  assert value["scale_decoder_outputs"] is tied
  assert value["use_cache"] is True
  assert value["task_specific_params"] == {
    "label": {"prefix": "[label] "},
    "rationale": {"prefix": "[rationale] "},
  }
  assert huggingface.generation_config(student)["max_new_tokens"] == 12


def test_a_deeper_decoder_goes_without_the_cache(make_student):
  config = dataclasses.replace(
    SMALL, num_encoder_layers=1, num_decoder_layers=2
  )
  student = make_student(config, params={})
  assert huggingface.model_config(student)["use_cache"] is False
  assert huggingface.generation_config(student)["use_cache"] is False
  assert "use_cache" in huggingface.usage(student, formats.ExportOptions())


def _read(folder):
  return {
    name: array
    for file in sorted(folder.glob("*.safetensors"))
    for name, array in safetensors_numpy.load_file(file).items()
  }


def test_weights_are_bit_for_bit_the_students(student, tmp_path):
  huggingface.write(student, tmp_path)
  config = student.model.config
  back = huggingface_folders.params(_read(tmp_path), config)
  jax.tree.map(np.testing.assert_array_equal, back, student.params)
  mode = stat.S_IMODE((tmp_path / huggingface.WEIGHTS_FILE).stat().st_mode)
  assert mode == 0o644


def test_large_weights_are_cut_into_files_with_an_index(
  make_student, config, tmp_path
):
  student = make_student(config)
  huggingface.write_weights(student, tmp_path, 5000)
  index = json.loads((tmp_path / huggingface.INDEX_FILE).read_text())
  arrays = _read(tmp_path)
  assert index["weight_map"].keys() == arrays.keys()
  sizes = {}
  for name, file in index["weight_map"].items():
    assert name in safetensors_numpy.load_file(tmp_path / file)
    sizes[file] = sizes.get(file, 0) + arrays[name].nbytes
  assert index["metadata"]["total_size"] == sum(sizes.values())
  largest = arrays["shared.weight"].nbytes
  assert all(size <= max(5000, largest) for size in sizes.values())
  assert len(sizes) > 3


def test_scanned_layers_are_written_like_unscanned_ones(
  make_student, config, tmp_path
):
  student = make_student(config)
  scanned = dataclasses.replace(
    student,
    model=EncoderDecoderModel(dataclasses.replace(config, scan_layers=True)),
    params=layer_stacking.stack_layers(student.params),
  )
  huggingface.write_weights(student, tmp_path, 10**9)
  plain = (tmp_path / huggingface.WEIGHTS_FILE).read_bytes()
  huggingface.write_weights(scanned, tmp_path, 10**9)
  assert (tmp_path / huggingface.WEIGHTS_FILE).read_bytes() == plain


def test_a_full_disk_is_reported_in_one_line(student, tmp_path):
  """A limit on the size of files stands for the disk's."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
  try:
    with pytest.raises(StorageError, match="make room") as caught:
      huggingface.write_weights(student, tmp_path, 10**9)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert "\n" not in str(caught.value)
  assert os.fspath(tmp_path) in str(caught.value)
