"""Checkpoints that lie elsewhere: fetched once, or named in an error.

The hub and the store are small servers on this machine that speak as much of
their languages as is asked of them.
"""

import http.server
import json
import pathlib
import threading
import urllib.parse

import pytest

from dss_jax.base.errors import UserError
from dss_jax.pretrained import locations, open_pretrained

REVISION = "0123456789abcdef0123456789abcdef01234567"


class _Server(http.server.ThreadingHTTPServer):
  """Serves `files`, by name, and counts what is asked for."""

  daemon_threads = True

  def __init__(self, handler):
    super().__init__(("127.0.0.1", 0), handler)
    self.files = {}
    self.asked = []
    threading.Thread(target=self.serve_forever, daemon=True).start()

  @property
  def url(self):
    return f"http://127.0.0.1:{self.server_address[1]}"

  def close(self):
    self.shutdown()
    self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  server: _Server

  def log_message(self, format, *args):
    pass

  def _answer(self, status, content=b"", **headers):
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), value)
    if "Content_Length" not in headers:
      self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)


class _Hub(_Handler):
  """The model `org/name`, at one revision."""

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
    self.server.asked.append(f"{self.command} {path}")
    files = self.server.files
    if path.startswith("/api/models/org/name/tree/"):
      entries = [
        {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
        for name, data in files.items()
      ]
      return self._answer(
        200, json.dumps(entries).encode(), Content_Type="application/json"
      )
    if path.startswith("/api/models/org/name"):
      content = {
        "id": "org/name",
        "sha": REVISION,
        "siblings": [{"rfilename": name} for name in files],
      }
      return self._answer(
        200, json.dumps(content).encode(), Content_Type="application/json"
      )
    prefix = f"/org/name/resolve/{REVISION}/"
    name = path.removeprefix(prefix)
    if not path.startswith(prefix) or name not in files:
      return self._answer(404, X_Error_Code="RepoNotFound")
    return self._answer(
      200,
      files[name],
      ETag=f'"{abs(hash(files[name])):x}"',
      X_Repo_Commit=REVISION,
    )


class _Store(_Handler):
  """The bucket `bucket`, as Google's JSON interface shows it."""

  def do_GET(self):
    url = urllib.parse.urlsplit(self.path)
    query = urllib.parse.parse_qs(url.query)
    start = "/storage/v1/b/bucket/o"
    if url.path == start:
      first = query.get("startOffset", [""])[0]
      last = query.get("endOffset", ["\x7f"])[0]
      items = [
        {"name": name, "size": str(len(data)), "generation": "1"}
        for name, data in sorted(self.server.files.items())
        if first <= name < last
      ]
      return self._answer(
        200,
        json.dumps({"items": items}).encode(),
        Content_Type="application/json",
      )
    name = urllib.parse.unquote(url.path.removeprefix(f"{start}/"))
    self.server.asked.append(name)
    if name not in self.server.files:
      return self._answer(404)
    return self._answer(200, self.server.files[name], x_goog_generation="1")


@pytest.fixture
def hub(tmp_path, monkeypatch):
  huggingface_hub = pytest.importorskip("huggingface_hub")
  from huggingface_hub import constants, hf_api

  server = _Server(_Hub)
  monkeypatch.setattr(constants, "ENDPOINT", server.url)
  monkeypatch.setattr(
    constants,
    "HUGGINGFACE_CO_URL_TEMPLATE",
    server.url + "/{repo_id}/resolve/{revision}/{filename}",
  )
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
  # Made at import, with the hub's own address.
  monkeypatch.setattr(
    huggingface_hub, "HfApi", lambda: hf_api.HfApi(server.url)
  )
  yield server
  server.close()


@pytest.fixture
def store(tmp_path, monkeypatch):
  server = _Server(_Store)
  monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
  monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
  monkeypatch.setenv("DSS_JAX_CACHE", str(tmp_path / "cache"))
  yield server
  server.close()


def _files(folder: pathlib.Path, prefix=""):
  return {
    f"{prefix}{file.relative_to(folder)}": file.read_bytes()
    for file in folder.rglob("*")
    if file.is_file()
  }


@pytest.mark.slow
def test_a_model_on_the_hub(hub, folders, tmp_path, monkeypatch):
  hub.files = _files(folders.write(tmp_path / "x", shards=2))
  hub.files |= {"README.md": b"x", "pytorch_model.bin": b"x", "onnx/m": b"x"}
  for revision in ("", "@main", f"@{REVISION}"):
    opened = open_pretrained(f"org/name{revision}")
    assert opened.config == folders.CONFIG
  fetched = {each for each in hub.asked if each.startswith("GET /org")}
  assert {each.rpartition("/")[2] for each in fetched} == {
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
  }
  # Nobody there any more: what was fetched is still here.
  hub.close()
  assert open_pretrained("org/name@main").config == folders.CONFIG
  with pytest.raises(UserError, match="could not be fetched") as error:
    open_pretrained("org/other")
  assert "\n" not in str(error.value)


@pytest.mark.slow
def test_what_the_hub_does_not_have(hub):
  hub.files = {"config.json": b"{}", "model.onnx": b""}
  with pytest.raises(UserError, match=r"no config\.json with weights"):
    open_pretrained("org/name")
  with pytest.raises(UserError, match="could not be fetched"):
    open_pretrained("org/absent")


def test_without_the_hubs_library(monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(UserError, match="pip install huggingface_hub"):
    locations.to_folder("org/name")


def test_a_folder_is_not_looked_for_elsewhere(folders, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  folders.write(tmp_path / "org" / "name")
  assert locations.to_folder("org/name") == pathlib.Path("org/name")
  assert open_pretrained("org/name").config == folders.CONFIG
  # Nor is a mistyped name next to it.
  assert locations.to_folder("org/nam") == pathlib.Path("org/nam")


@pytest.mark.parametrize(
  "path",
  ["nowhere", "a/b/c", "../x/y", "/abs/x", "", "a\0/b", "-a/b", "~no-one/x"],
)
def test_other_paths_are_folders(path):
  with pytest.raises(UserError, match=r"is no folder|holds no checkpoint"):
    open_pretrained(path)


def test_which_files_of_a_model_are_fetched():
  small = ["config.json", "spiece.model"]
  others = ["README.md", "tf_model.h5", "rust_model.ot", "sub/config.json"]
  sharded = ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"]
  needed = locations._needed
  assert needed([*small, *others, *sharded]) == [*small, *sharded]
  assert needed([*small, *sharded, "model.safetensors"]) == [
    *small,
    "model.safetensors",
  ]
  # Some have both forms of the same weights.
  both = [*sharded, "pytorch_model.bin"]
  assert needed([*small, *both]) == [*small, "pytorch_model.bin"]
  assert needed(["model.safetensors"]) == []
  assert needed([*small, *others]) == []


@pytest.mark.slow
def test_a_checkpoint_in_a_store(store, folders, tmp_path):
  folder = folders.write(tmp_path / "x")
  store.files = _files(folder, "models/small/")
  store.files["models/small2/config.json"] = b"of another"
  opened = open_pretrained("gs://bucket/models/small/")
  assert opened.config == folders.CONFIG
  assert opened.num_parameters > 0
  assert set(store.asked) == {
    "models/small/config.json",
    "models/small/model.safetensors",
  }
  opened.arrays["decoder/decoder_norm/scale"].whole()
  # The second time nobody is asked.
  store.asked.clear()
  assert open_pretrained("gs://bucket/models/small").config == folders.CONFIG
  assert not store.asked


@pytest.mark.slow
def test_a_copy_of_a_part_is_not_one_of_the_whole(store):
  store.files = {
    f"run/{name}": name.encode()
    for name in ("checkpoint_1/checkpoint", "checkpoint_2/checkpoint")
  }
  part = locations.to_folder("gs://bucket/run/checkpoint_1")
  assert _files(part) == {"checkpoint": b"checkpoint_1/checkpoint"}
  whole = locations.to_folder("gs://bucket/run")
  assert len(_files(whole)) == 2
  store.files = {}
  assert locations.to_folder("gs://bucket/run/") == whole


@pytest.mark.slow
def test_what_a_store_does_not_have(store, tmp_path):
  with pytest.raises(UserError, match="is empty or not there") as error:
    open_pretrained("gs://bucket/nothing")
  assert "\n" not in str(error.value)
  store.files = {"m/../../etc/x": b"x"}
  with pytest.raises(UserError, match="no plain path"):
    open_pretrained("gs://bucket/m")
  assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
  "path",
  [
    "gs://",
    "gs://bucket",
    "gs://bucket/",
    "gs://b/../x",
    "gs://b/.",
    "s3://a/b",
    "x://y",
  ],
)
def test_paths_of_no_store(path):
  with pytest.raises(UserError, match="no path in a store"):
    open_pretrained(path)
