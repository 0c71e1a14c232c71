"""What the compiler says of a training step."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping

import jax

from dss_jax.planning import collectives
from dss_jax.planning.abstract_run import AbstractRun

# The calls of Pallas' kernels: on TPUs by Mosaic, on GPUs by Triton; and of
# cuDNN's attention.
_KERNEL = re.compile(
  r'custom_call_target="(tpu_custom_call|__gpu\$xla\.gpu\.triton|'
  r'__cudnn\$fmha[^"]*)"(?:.*?op_name="([^"]*)")?'
)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """A step that was compiled. All bytes are those of one device.

  Attributes:
    temporaries: bytes of activations, gradients and all else that lives only
      during a step.
    traffic: its collectives.
    kernels: how many calls of hand-written kernels are in the program, by name.
  """

  temporaries: int | None
  traffic: collectives.Traffic
  kernels: Mapping[str, int]


def compile_step(
  run: AbstractRun, rows: int | None = None
) -> CompiledStep | str:
  """Compiles the step that training would run, for batches of so many rows.

  Returns:
    What the compiler says of it; or, where the compiler refuses the step since
    it does not fit into a device's memory, that refusal.
  """
  try:
    program = run.compile(rows)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return str(error)
  analysis = program.memory_analysis()
  text = program.as_text() or ""
  return CompiledStep(
    temporaries=analysis and analysis.temp_size_in_bytes,
    traffic=collectives.read(text, run.config.partitioner.mesh.size),
    kernels=kernels_in(text),
  )


def kernels_in(program: str) -> dict[str, int]:
  """Calls of hand-written kernels in a program's text (HLO), by name."""
  return dict(
    collections.Counter(
      _kernel_name(op_name) or target
      for target, op_name in _KERNEL.findall(program)
    )
  )


def _kernel_name(op_name: str) -> str:
  """`jit(step)/encoder/row_attention/pallas_call` -> `row_attention`."""
  name = op_name.removesuffix("/pallas_call").rsplit("/", 1)[-1]
  return name.removeprefix("jit(").removesuffix(")")
