"""Their side of `train.py`: the official recipe on Hugging Face's T5.

Two forward passes a step, label and rationale of the same records, each batch
padded to its longest; the loss is alpha times the one's mean cross-entropy and
1 - alpha times the other's; AdamW without weight decay, gradients clipped to a
norm of 1; float32. Nothing of a trainer around it, and padded batches made
beforehand, on the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import hugging_face
import measuring
import numpy as np
import prepare
import students
import torch

from dss_jax.data.feeding.batch_files import BatchFiles
from dss_jax.models import flops

ALPHA = 0.5
LEARNING_RATE = 5e-5
_IGNORED = -100  # the library's mark of a label that does not count


class _Part(NamedTuple):
  """A part of a batch: the arguments of its forward passes.

  Attributes:
    passes: one of each half, or one of both.
    shares: what the label's and the rationale's mean losses count.
  """

  passes: list[dict[str, torch.Tensor]]
  shares: list[float]


class Side:
  """A model, its optimizer and its batches, all on the device."""

  def __init__(
    self,
    student: str,
    batches: str,
    *,
    weights: str | None = None,
    model: dict[str, Any] | None = None,
    dtype: str = "float32",
    compile: bool = False,
    one_forward: bool = False,
    pad_to: int = 1,
    fused_optimizer: bool = False,
    num_microbatches: int = 1,
  ):
    """The recipe is what the defaults say; the others are it at its best.

    Args:
      student: of `students.STUDENTS`.
      batches: folder of `prepare.write`, for its records.
      weights: file to start from; else the library's random weights.
      model: settings of our `T5Config` to change: its sizes and dropout.
      dtype: "bfloat16" computes under autocast; weights stay float32.
      compile: by `torch.compile`, once for each shape.
      one_forward: one pass over both halves, one below the other.
      pad_to: lengths are padded to multiples of this: fewer shapes.
      fused_optimizer: torch's fused AdamW.
      num_microbatches: parts whose gradients are added up, for memory's sake;
        each is padded to its own longest.
    """
    self._device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(measuring.cores())
    torch.manual_seed(0)
    settings = {"dropout_rate": 0.1, **(model or {})}
    self._config = dataclasses.replace(students.STUDENTS[student], **settings)
    loaded = None
    if weights:
      with np.load(weights) as file:
        loaded = {name: file[name] for name in file.files}
    self._model = hugging_face.model_of(
      self._config,
      loaded,
      dropout_rate=self._config.dropout_rate,
      device=self._device,
    ).train()
    del loaded
    self._optimizer = torch.optim.AdamW(
      self._model.parameters(),
      lr=LEARNING_RATE,
      weight_decay=0.0,
      fused=True if fused_optimizer else None,
    )
    self._forward: Any = self._model
    if compile:
      self._model.config.use_cache = False  # nothing is generated
      torch._dynamo.config.recompile_limit = 64  # one for each shape
      self._forward = torch.compile(self._model, dynamic=False)
    self._dtype, self._one_forward, self._pad_to = dtype, one_forward, pad_to
    self._num_microbatches = num_microbatches
    files = BatchFiles(batches)
    records = list(prepare.batches_of_records(files))
    self._files = files
    self._sizes = [self._measure(each) for each in records]
    self._batches = [self._on_device(each) for each in records]
    self._position = 0

  def _measure(self, records: Sequence[prepare.Record]) -> dict[str, float]:
    """What a batch holds, padding left out."""
    pairs = [pair for each in records for pair in (each.label, each.rationale)]
    inputs, targets = (np.array([len(p[i]) for p in pairs]) for i in (0, 1))
    tokens = int(inputs.sum()), int(targets.sum())
    attended = flops.AttentionPairs.of_lengths(inputs, targets)
    return {
      "records": len(records),
      "tokens": sum(tokens),
      "flops": flops.training_flops(self._config, *tokens, attended),
    }

  def _on_device(self, records: Sequence[prepare.Record]) -> list[_Part]:
    """A step's batch, in parts."""
    tokens = [
      sum(len(each.label[1]) for each in records),
      sum(len(each.rationale[1]) for each in records),
    ]
    size = -(-len(records) // self._num_microbatches)
    parts = []
    for start in range(0, len(records), size):
      part = records[start : start + size]
      halves = [
        [each.label for each in part],
        [each.rationale for each in part],
      ]
      # The share of a mean over the part's tokens in the mean over the batch's.
      shares = [
        weight * sum(len(targets) for _, targets in half) / total
        for weight, half, total in zip(
          (ALPHA, 1 - ALPHA), halves, tokens, strict=True
        )
      ]
      if self._one_forward:
        halves = [halves[0] + halves[1]]
      parts.append(_Part([self._arguments(half) for half in halves], shares))
    return parts

  def _arguments(
    self, pairs: Sequence[tuple[list[int], list[int]]]
  ) -> dict[str, torch.Tensor]:
    inputs = prepare.padded([i for i, _ in pairs], 0, self._pad_to)
    labels = prepare.padded([t for _, t in pairs], _IGNORED, self._pad_to)
    tokens = torch.as_tensor(inputs)
    return {
      "input_ids": tokens.to(self._device),
      "attention_mask": (tokens != 0).long().to(self._device),
      "labels": torch.as_tensor(labels).to(self._device),
    }

  def _loss(self, part: _Part) -> torch.Tensor:
    with self._autocast():
      if self._one_forward:
        logits = self._forward(**part.passes[0]).logits
        labels = part.passes[0]["labels"]
        means = [
          torch.nn.functional.cross_entropy(
            half.flatten(0, 1).float(), target.flatten(), ignore_index=_IGNORED
          )
          for half, target in zip(logits.chunk(2), labels.chunk(2), strict=True)
        ]
      else:
        means = [self._forward(**half).loss for half in part.passes]
      label, rationale = part.shares
      return label * means[0] + rationale * means[1]

  def _autocast(self) -> contextlib.AbstractContextManager:
    if self._dtype == "float32":
      return contextlib.nullcontext()
    return torch.autocast(self._device, dtype=torch.bfloat16)

  def _step(self, parts: list[_Part]) -> torch.Tensor:
    total = torch.zeros((), device=self._device)
    for part in parts:
      loss = self._loss(part)
      loss.backward()
      total += loss.detach()
    torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return total

  def description(self) -> dict[str, Any]:
    """The model, as the library sees it."""
    cuda = self._device == "cuda"
    return {
      "device": torch.cuda.get_device_name() if cuda else measuring.processor(),
      "platform": self._device,
      "parameters": sum(p.numel() for p in self._model.parameters()),
      "attention": self._model.config._attn_implementation,
      "tf32": torch.backends.cuda.matmul.allow_tf32,
      "threads": torch.get_num_threads(),
    }

  def warm_up(self, steps: int) -> dict[str, float]:
    """All shapes once; returns the seconds, mostly of compiling."""
    start = time.perf_counter()
    compiled = self._forward is not self._model
    self.steps(max(steps, len(self._batches) if compiled else 1))
    return {"compile_s": time.perf_counter() - start if compiled else 0.0}

  def steps(self, count: int) -> dict[str, Any]:
    """Trains `count` steps: seconds, and what they trained on."""
    record = measuring.empty_record()
    places = [(self._position + i) % len(self._batches) for i in range(count)]
    with measuring.clock(record):
      for place in places:
        loss = self._step(self._batches[place])
      value = float(loss)
      if self._device == "cuda":
        torch.cuda.synchronize()
    self._position += count
    totals = {
      name: sum(self._sizes[place][name] for place in places)
      for name in self._sizes[0]
    }
    slots = sum(
      arguments[name].numel()
      for place in places
      for part in self._batches[place]
      for arguments in part.passes
      for name in ("input_ids", "labels")
    )
    padding = 1 - totals["tokens"] / slots
    return {**record, **totals, "padding": padding, "loss": value}

  def memory(self) -> dict[str, int]:
    """The peak so far: the device's, or on a CPU the process's."""
    if self._device == "cuda":
      return {"peak_bytes": torch.cuda.max_memory_allocated()}
    return {"peak_bytes": measuring.peak_bytes()}

  def losses(self, count: int) -> dict[str, Any]:
    """Losses without dropout: before, and after each of `count` - 1 updates.

    On exactly the records of our packed batches.
    """
    self._model.eval()
    found = []
    for place in range(count):
      files_step = self._files.steps[place]
      records = prepare.records_of(self._files[files_step])
      batch = self._on_device(records)
      with torch.no_grad():
        found.append(sum(float(self._loss(part)) for part in batch))
      if place + 1 < count:
        self._step(batch)
    self._model.train()
    return {"losses": found}
