"""Shared test set-up: simulated devices, optional real data, a browser."""

import base64
import gc
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

# Before JAX is imported anywhere: meshes are tested on simulated CPU devices.
_FLAGS = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _FLAGS:
  # Tests compile much and compute little: optimising costs more than it gains.
  _FLAGS += (
    " --xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0"
  )
  # XLA aborts where it does not know a flag, so these are for known versions. The
  # older of the two emitters of fused loops compiles in half the time; later
  # versions have only one, which is as fast.
  if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS += (
      " --xla_cpu_use_fusion_emitters=false"
      " --xla_cpu_parallel_codegen_split_count=1"
      " --xla_llvm_disable_expensive_passes=true"
    )
  os.environ["XLA_FLAGS"] = _FLAGS.strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs need not say which lines of Python they come from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Processes of tests do not end with the training that is tested, and would keep
# its memory (`cpu_memory`).
os.environ.setdefault("GLIBC_TUNABLES", "")

# A shell that starts tests in the background has them ignore Ctrl-C, and so would
# every process of a test.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing and lowering make many objects, few of them garbage.
gc.set_threshold(100_000, 20, 50)

# Programs that several tests, workers or sessions compile are compiled once.
_CACHE = pathlib.Path(__file__).resolve().parent.parent / ".pytest_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import pytest  # noqa: E402

pytest_plugins = (
  "command_line",
  "installed_wheel",
  "loopback_batches",
  "loopback_teacher",
  "plain_model",
  "small_students",
  "small_sweeps",
)

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(
  os.environ.get("DSS_SHARED", REPOSITORY.parent / "shared")
)


@pytest.fixture(autouse=True)
def _own_bindings():
  """What a test binds in gin is forgotten after it."""
  yield
  if gin_config := sys.modules.get("dss_jax.cli.gin_config"):
    gin_config.clear()


@pytest.fixture(autouse=True)
def _own_datasets(monkeypatch):
  """Datasets that a test registers are forgotten after it."""
  from dss_jax.datasets import dataset_spec
  from dss_jax.vocabularies import vocabulary_names

  monkeypatch.setattr(dataset_spec, "_SPECS", dict(dataset_spec._SPECS))
  defaults = dict(vocabulary_names._DEFAULTS)
  monkeypatch.setattr(vocabulary_names, "_DEFAULTS", defaults)


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
  """The root of the checkout."""
  return REPOSITORY


@pytest.fixture
def load_benchmark(
  repository, monkeypatch
) -> Callable[[str], types.ModuleType]:
  """Loads a script of `benchmarks/`, which finds its neighbours."""
  folder = repository / "benchmarks"
  monkeypatch.syspath_prepend(folder)

  def load(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(
      f"{name}_benchmark", folder / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module

  return load


@pytest.fixture(scope="session")
def recipe() -> types.ModuleType:
  """The script of `fixtures/parity`, for its models; needs no torch itself."""
  name = "make_parity"
  path = REPOSITORY / "tests" / "fixtures" / "parity" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # dataclasses look it up there
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """The folder of released data; skips where it is absent."""
  folder = SHARED / "data"
  if not folder.is_dir():
    pytest.skip(f"the released data is not at {folder} (set DSS_SHARED)")
  return folder


@pytest.fixture(scope="session")
def fixtures() -> pathlib.Path:
  """Small committed files: data in the release layout, parity numbers."""
  return REPOSITORY / "tests" / "fixtures"


@pytest.fixture(scope="session")
def folders() -> types.ModuleType:
  """The module that writes small Hugging Face folders."""
  import huggingface_folders

  return huggingface_folders


# A real headless Chromium, where one is installed.

_BROWSER_FLAGS = (
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-dev-shm-usage",
  # Whatever asks for the network is seen, and gets none but the loopback.
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  "--remote-debugging-pipe",
)
_BROWSER_TIMEOUT_S = 60.0


class Page:
  """One tab, driven through the DevTools protocol over a pipe.

  Attributes:
    events: what the page has reported: requests, log entries, exceptions.
  """

  def __init__(self, write_fd: int, read_fd: int):
    self._write_fd, self._read_fd = write_fd, read_fd
    self._buffer = b""
    self._last_id = 0
    self._session: str | None = None
    self.events: list[dict[str, Any]] = []
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self.call(
      "Target.attachToTarget", targetId=target, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def call(self, method: str, **params: Any) -> dict[str, Any]:
    """Sends a command and waits for its result."""
    self._last_id += 1
    message = {"id": self._last_id, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._write_fd, json.dumps(message).encode() + b"\0")
    while (found := self._next()).get("id") != self._last_id:
      self.events.append(found)
    assert "error" not in found, found["error"]
    return found["result"]

  def _next(self) -> dict[str, Any]:
    deadline = time.monotonic() + _BROWSER_TIMEOUT_S
    while b"\0" not in self._buffer:
      left = deadline - time.monotonic()
      ready, _, _ = select.select([self._read_fd], [], [], max(left, 0))
      assert ready, "Chromium does not answer"
      self._buffer += os.read(self._read_fd, 1 << 20)
    message, self._buffer = self._buffer.split(b"\0", 1)
    return json.loads(message)

  def open(self, place: pathlib.Path | str):
    """Loads a file or an address and waits until it is there."""
    self.events.clear()
    url = place if isinstance(place, str) else place.as_uri()
    self.call("Page.navigate", url=url)
    while not any(
      e.get("method") == "Page.loadEventFired" for e in self.events
    ):
      self.events.append(self._next())

  def js(self, expression: str) -> Any:
    """The value of a JavaScript expression in the page."""
    result = self.call(
      "Runtime.evaluate", expression=expression, returnByValue=True
    )
    assert "exceptionDetails" not in result, result
    return result["result"].get("value")

  def press(self, key: str):
    """Presses and releases a key."""
    text = key if len(key) == 1 else None
    for kind in ("keyDown", "keyUp"):
      params: dict[str, Any] = {"type": kind, "key": key}
      if text and kind == "keyDown":
        params["text"] = text
      self.call("Input.dispatchKeyEvent", **params)

  def look(self, width: int, height: int, *, dark: bool = False):
    """Sets the size of the window and the colours."""
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=width < 600,
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}  # fmt: skip
    self.call("Emulation.setEmulatedMedia", features=[scheme])

  def screenshot(self, path: pathlib.Path):
    """Writes a PNG of the whole page."""
    shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
    path.write_bytes(base64.b64decode(shot["data"]))

  def complaints(self, server: str | None = None) -> list[Any]:
    """Errors, policy violations and requests to anything but the file.

    Args:
      server: the only place that requests may go to, for a page from there.
    """
    found = []
    for event in self.events:
      method, params = event.get("method"), event.get("params", {})
      if method == "Runtime.exceptionThrown":
        found.append(params["exceptionDetails"])
      elif method == "Log.entryAdded" and params["entry"]["level"] != "verbose":
        found.append(params["entry"])
      elif method == "Network.requestWillBeSent":
        url = params["request"]["url"]
        if server is None:
          fine = url.startswith("file:") and params["type"] == "Document"
        else:
          fine = url.startswith(f"{server}/")
        if not fine:
          found.append(url)
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
  """A tab of a real browser; skips where none is installed."""
  program = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
  )  # fmt: skip
  if program is None:
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
  profile = tmp_path_factory.mktemp("chromium")
  to_browser, from_us = os.pipe()
  to_us, from_browser = os.pipe()

  # Chromium reads from 3 and writes to 4. (A function run between fork and
  # exec would be simpler, and is unsafe in a process with threads.)
  start = (
    "import os, sys\n"
    f"os.dup2({to_browser}, 103), os.dup2({from_browser}, 104)\n"
    "os.dup2(103, 3), os.dup2(104, 4)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
  )
  process = subprocess.Popen(
    [
      sys.executable,
      "-c",
      start,
      program,
      *_BROWSER_FLAGS,
      f"--user-data-dir={profile}",
    ],
    pass_fds=(to_browser, from_browser),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    yield Page(from_us, to_us)
  finally:
    process.terminate()
    process.wait(30)
    for descriptor in (to_browser, from_us, to_us, from_browser):
      os.close(descriptor)
