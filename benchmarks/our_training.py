"""Our side of `train.py`: the train step as `dss-jax train` compiles it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import prepare
import students

from dss_jax.data.feeding.batch_files import BatchFiles
from dss_jax.models import abstract_params, flops, partitioning
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.pretrained import huggingface_weights
from dss_jax.training import (
  cpu_memory,
  losses,
  optimizers,
  train_state,
  train_step,
  vocabulary_loss,
)

OPTIMIZERS = {
  "adamw": optimizers.AdamW(clip_norm=1.0),
  "adafactor": optimizers.Adafactor(),
}
LEARNING_RATE = 5e-5
# Model settings of the plain ways of computing.
PLAIN = {"attention_implementation": "xla"}


class Side:
  """A student, its state and its batches, all on the device."""

  def __init__(
    self,
    student: str,
    batches: str,
    *,
    model: dict[str, Any] | None = None,
    optimizer: str = "adamw",
    plain: bool = False,
    num_microbatches: int = 1,
  ):
    """Nothing is compiled yet but the initialisation.

    Args:
      student: of `students.STUDENTS`.
      batches: folder of `prepare.write`.
      model: settings of the student's `T5Config` to change.
      optimizer: of `OPTIMIZERS`.
      plain: compute everything by its definition, fast ways switched off.
      num_microbatches: parts the batch is computed in.
    """
    self._compiling = measuring.CompileTime()
    self._plain = plain
    settings = {
      "dropout_rate": 0.1,
      **(PLAIN if plain else {}),
      **(model or {}),
    }
    self._config = dataclasses.replace(students.STUDENTS[student], **settings)
    self._num_microbatches = num_microbatches
    cpu_memory.keep(self._config)  # as `dss-jax train` does
    # One device, as theirs.
    self._partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
    self._optimizer = OPTIMIZERS[optimizer]
    self._weighting = losses.Objective().weighting(prepare.SUBTASKS)
    files = BatchFiles(batches)
    host = [files[step] for step in files.steps]
    self._sizes = [self._measure(batch) for batch in host]
    self._slots = files.shape.slots
    self._batches = [self._partitioner.put_batch(batch) for batch in host]
    self._state, self._step = self._make()
    self._position = 0

  def _measure(self, batch: dict[str, np.ndarray]) -> dict[str, float]:
    """What a batch holds, padding left out."""
    inputs = int((batch["encoder_segment_ids"] > 0).sum())
    targets = int((batch["decoder_segment_ids"] > 0).sum())
    pairs = flops.AttentionPairs.of_batch(batch)
    first = batch["decoder_positions"] == 0
    return {
      "records": int((first & (batch["decoder_subtask_ids"] == 1)).sum()),
      "tokens": inputs + targets,
      "flops": flops.training_flops(self._config, inputs, targets, pairs),
    }

  def _make(self) -> tuple[train_state.TrainState, Any]:
    model = EncoderDecoderModel(self._config)
    tx = self._optimizer.transform(
      lambda step: jnp.float32(LEARNING_RATE),
      abstract_params.param_shapes(model),
      model.param_axes(),
    )
    state, shardings = train_state.init_state(
      model, tx, self._partitioner, jax.random.key(0)
    )
    step = train_step.jit_train_step(
      model=model,
      tx=tx,
      options=train_step.StepOptions(
        self._weighting,
        num_microbatches=self._num_microbatches,
        logits_at_once=self._logits_at_once(),
      ),
      partitioner=self._partitioner,
      state_shardings=shardings,
      base_key=jax.random.key(1),
    )
    return state, step

  def _logits_at_once(self) -> int | None:
    if self._plain:
      return None
    return vocabulary_loss.positions_at_once(
      self._config.vocab_size, jax.default_backend()
    )

  def description(self) -> dict[str, Any]:
    """The student, the batches' shape, the device."""
    return {
      "device": jax.devices()[0].device_kind,
      "platform": jax.default_backend(),
      "config": dataclasses.asdict(self._config),
      "parameters": sum(map(np.size, jax.tree.leaves(self._state.params))),
      "logits_at_once": self._logits_at_once(),
    }

  def warm_up(self, steps: int) -> dict[str, float]:
    """Compiles; returns seconds of tracing and compiling."""
    before = self._compiling.seconds
    self.steps(max(steps, 1))
    return {"compile_s": self._compiling.seconds - before}

  def steps(self, count: int) -> dict[str, Any]:
    """Trains `count` steps: seconds, and what they trained on."""
    record = measuring.empty_record()
    places = [(self._position + i) % len(self._batches) for i in range(count)]
    with measuring.clock(record):
      for place in places:
        self._state, sums = self._step(self._state, self._batches[place])
      loss = float(sums["loss"])
      jax.block_until_ready(self._state)
    self._position += count
    totals = {
      name: sum(self._sizes[place][name] for place in places)
      for name in self._sizes[0]
    }
    padding = 1 - totals["tokens"] / (self._slots * count)
    return {**record, **totals, "padding": padding, "loss": loss}

  def memory(self) -> dict[str, int]:
    """The peak so far: the device's, or on a CPU the process's."""
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return {"peak_bytes": peak or measuring.peak_bytes()}

  def program_memory(self) -> dict[str, int]:
    """XLA's plan of the step (compiled again, or read from the cache)."""
    compiled = self._step.lower(self._state, self._batches[0]).compile()
    return measuring.memory_of_program(compiled)

  def losses(self, count: int, weights: str | None = None) -> dict[str, Any]:
    """Losses before, and after each of `count` - 1 updates.

    The side must be made without dropout.

    Args:
      count: batches, of as many files' steps.
      weights: file to write the weights from before to, by Hugging Face's
        names.
    """
    if self._config.dropout_rate:
      raise ValueError("losses to compare are those without dropout")
    params = self._state.params
    if weights is not None:
      named = huggingface_weights.to_huggingface(
        jax.device_get(params), self._config
      )
      np.savez(weights, allow_pickle=False, **named)
    evaluate = train_step.jit_eval_step(
      model=EncoderDecoderModel(self._config),
      partitioner=self._partitioner,
      param_shardings=jax.tree.map(lambda x: x.sharding, params),
      num_subtasks=len(prepare.SUBTASKS),
      logits_at_once=self._logits_at_once(),
    )
    found = []
    for place in range(count):
      sums = evaluate(self._state.params, self._batches[place])
      means = np.asarray(sums["nll"]) / np.asarray(sums["tokens"])
      shares = np.array(self._weighting.subtask_weights, np.float64)
      found.append(float(means @ shares))
      if place + 1 < count:
        self._state, _ = self._step(self._state, self._batches[place])
    return {"losses": found}
