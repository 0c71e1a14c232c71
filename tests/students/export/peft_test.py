"""Adapters of a run, on their base in PEFT, compute what the run's student does."""

import json

import command_line
import jax
import numpy as np
import pytest

from dss_jax import main
from dss_jax.base.errors import UserError
from dss_jax.models import abstract_params, lora
from dss_jax.models.config import T5Config
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.pretrained import open_pretrained
from dss_jax.students.export import formats, peft

CONFIG = T5Config(
  vocab_size=272,
  emb_dim=12,
  num_heads=3,
  head_dim=8,
  mlp_dim=20,
  num_encoder_layers=3,
  num_decoder_layers=2,
)


def _trained(config=CONFIG, **options):
  model = lora.LoraModel(
    EncoderDecoderModel(config), lora.LoraOptions(**options)
  )
  shapes = abstract_params.param_shapes(model)
  return lora.by_path(
    jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
  )


@pytest.mark.parametrize("scan_layers", [False, True])
def test_names_and_layouts(scan_layers):
  config = CONFIG.__class__(
    **{**vars(CONFIG), "scan_layers": scan_layers, "num_encoder_layers": 2}
  )
  options = {"rank": 4, "targets": "attention_and_mlp", "also_train": "scale$"}
  tensors, adapted, whole = peft.to_peft(_trained(config, **options), config)
  layers = 2 * (4 + 3) + 2 * (8 + 3)
  assert len(adapted) == len(set(adapted)) == layers
  assert len(whole) == 2 * 2 + 2 * 3 + 2
  assert len(tensors) == 2 * layers + len(whole)
  start = "base_model.model.decoder.block.1.layer.2.DenseReluDense.wo"
  assert tensors[f"{start}.lora_A.weight"].shape == (4, 20)
  assert tensors[f"{start}.lora_B.weight"].shape == (12, 4)
  assert tensors["base_model.model.encoder.final_layer_norm.weight"].shape == (
    12,
  )


@pytest.mark.parametrize(
  "options",
  [{"also_train": "token_embedder"}, {"targets": "logits_dense/kernel"}],
)
def test_tables_are_refused(options):
  with pytest.raises(UserError, match="export to huggingface"):
    peft.to_peft(_trained(**options), CONFIG)


def test_a_student_without_adapters_is_refused(make_student, tmp_path):
  with pytest.raises(UserError, match="no run that trained adapters"):
    peft.write(make_student(), tmp_path, formats.ExportOptions())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A base, in Hugging Face's layout too, and runs of adapters for both."""
  pytest.importorskip("torch")
  folder = tmp_path_factory.mktemp("runs")
  assert main.main(command_line.train_flags(folder / "base")) == 0
  flags = ["export", f"--model_dir={folder / 'base'}", "--check=0"]
  assert main.main([*flags, f"--output_dir={folder / 'base_hf'}"]) == 0
  for base in ("base", "base_hf"):
    more = [
      "--gin_file=lora.gin",
      f"--gin.INITIAL_CHECKPOINT_PATH={folder / base}",
      "--gin.LORA_RANK=3",
      "--gin.LORA_ALPHA=24.0",
      "--gin.LORA_TARGETS=attention_and_mlp",
      "--gin.LORA_ALSO_TRAIN='scale$'",
      "--gin.BASE_LEARNING_RATE=0.1",
      "--gin.TRAIN_STEPS=8",
    ]
    run = command_line.train_flags(folder / f"of_{base}", *more)
    assert main.main(run) == 0
  return folder


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("base", ["base", "base_hf"])
def test_logits_are_the_students(runs, tmp_path, capsys, base):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  library = pytest.importorskip("peft")
  run, output = runs / f"of_{base}", tmp_path / "out"
  flags = ["export", f"--model_dir={run}", f"--output_dir={output}"]
  assert main.main([*flags, "--format=peft", "--check=8"]) == 0
  printed = capsys.readouterr().out
  assert "identical labels 8/8, identical outputs 8/8" in printed

  saved = json.loads((output / "adapter_config.json").read_text())
  named = saved["base_model_name_or_path"]
  assert named == (str(runs / base) if base == "base_hf" else None)
  assert (output / "base").is_dir() == (named is None)
  theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(
    named or output / "base"
  )
  adapted = library.PeftModel.from_pretrained(theirs, str(output)).eval()
  assert adapted.active_peft_config.r == 3

  # Ours, with the adapters merged.
  merged = tmp_path / "merged"
  flags = ["export", f"--model_dir={run}", "--check=0"]
  assert main.main([*flags, f"--output_dir={merged}"]) == 0
  opened = open_pretrained(str(merged))
  model = EncoderDecoderModel(opened.config)
  draw = np.random.default_rng(0)
  encoder = draw.integers(3, 208, (4, 9), np.int32)
  decoder = np.pad(draw.integers(3, 208, (4, 5), np.int32), ((0, 0), (1, 0)))
  batch = {"encoder_input_tokens": encoder, "decoder_input_tokens": decoder}
  ours = np.asarray(model.apply(opened.load(model), batch))
  with torch.inference_mode():
    found = adapted(
      input_ids=torch.from_numpy(encoder.astype(np.int64)),
      decoder_input_ids=torch.from_numpy(decoder.astype(np.int64)),
    ).logits.numpy()
    with adapted.disable_adapter():
      bare = adapted(
        input_ids=torch.from_numpy(encoder.astype(np.int64)),
        decoder_input_ids=torch.from_numpy(decoder.astype(np.int64)),
      ).logits.numpy()
  np.testing.assert_allclose(found, ours, atol=1e-4)
  assert np.abs(bare - ours).max() > 0.05  # the adapters do something
