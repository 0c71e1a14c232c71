"""Uploads to the Hugging Face hub, by its own library, to a hub of our own."""

import base64
import http.server
import json
import threading

import pytest

from dss_jax import main
from dss_jax.base.errors import StorageError, UserError
from dss_jax.students.export import hub_upload

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class _Hub(http.server.ThreadingHTTPServer):
  """What the library asks a hub for when it uploads small files."""

  def __init__(self):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.repos: dict[str, bool] = {}  # name -> whether it is private
    self.files: dict[str, bytes] = {}
    self.commits = 0
    self.token = "good"
    self.refuses_commits = False
    self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
  server: _Hub

  def log_message(self, *_):
    pass

  def _answer(self, value, status=200):
    body = json.dumps(value).encode()
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def do_GET(self):
    hub = self.server
    name = self.path.partition("?")[0].removeprefix("/api/models/")
    name = name.removesuffix("/revision/main")
    if name not in hub.repos:
      self._answer({"error": "Repository not found"}, 404)
      return
    siblings = [{"rfilename": each} for each in hub.files]
    self._answer(
      {
        "id": name,
        "private": hub.repos[name],
        "sha": "0" * 40,
        "siblings": siblings,
      }
    )

  def do_POST(self):
    hub = self.server
    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
    if self.headers.get("Authorization") != f"Bearer {hub.token}":
      self._answer({"error": "Invalid credentials"}, 401)
    elif self.path == "/api/repos/create":
      asked = json.loads(body)
      name = f"{asked['organization']}/{asked['name']}"
      status = 409 if name in hub.repos else 200
      # Its first version says `private`.
      is_private = asked.get("visibility") == "private" or asked.get("private")
      hub.repos.setdefault(name, bool(is_private))
      self._answer({"url": f"{hub.url}/{name}"}, status)
    elif self.path == "/api/validate-yaml":  # of the card
      self._answer({"errors": [], "warnings": []})
    elif "/preupload/" in self.path:
      files = json.loads(body)["files"]
      self._answer(
        {
          "files": [
            {
              "path": file["path"],
              "uploadMode": "regular",
              "shouldIgnore": False,
            }
            for file in files
          ]
        }
      )
    elif "/commit/" in self.path and not hub.refuses_commits:
      for line in body.splitlines():
        entry = json.loads(line)
        if entry["key"] == "file":
          value = entry["value"]
          hub.files[value["path"]] = base64.b64decode(value["content"])
      hub.commits += 1
      self._answer(
        {
          "success": True,
          "commitOid": "1" * 40,
          "commitUrl": f"{hub.url}/me/x/commit/1",
        }
      )
    else:
      self._answer({"error": "out of order"}, 400)


@pytest.fixture
def hub(monkeypatch):
  library = pytest.importorskip("huggingface_hub")
  server = _Hub()
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  from huggingface_hub import constants

  api = library.HfApi

  def local_api(**options):
    return api(endpoint=server.url, token="good", **options)

  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
  monkeypatch.setattr(library, "HfApi", local_api)
  yield server
  server.shutdown()
  server.server_close()
  thread.join()


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "out" / "below").mkdir(parents=True)
  (tmp_path / "out" / "README.md").write_text("# out")
  (tmp_path / "out" / "below" / "weights").write_bytes(b"\x00\x01" * 100)
  return str(tmp_path / "out")


@pytest.mark.hf
@pytest.mark.parametrize("public", [False, True])
def test_all_files_go_to_one_commit(hub, folder, public):
  said: list[str] = []
  upload = hub_upload.Upload("me/x", public=public)
  assert hub.repos == {"me/x": not public}
  assert upload.send(folder, said.append) == f"{hub.url}/me/x/commit/1"
  assert hub.files == {
    "README.md": b"# out",
    "below/weights": b"\x00\x01" * 100,
  }
  assert hub.commits == 1
  (line,) = said
  assert "uploading 2 files, 0.0 MB, to me/x: README.md, below/weights" in line
  # A second export goes to the same place.
  hub_upload.Upload("me/x", public=public).send(folder, said.append)
  assert hub.commits == 2


@pytest.mark.hf
@pytest.mark.parametrize("public", [False, True])
def test_a_repository_that_others_may_read_otherwise(hub, public):
  hub.repos["me/x"] = public
  with pytest.raises(UserError, match=f"set public to {not public}"):
    hub_upload.Upload("me/x", public=public)
  assert not hub.commits


@pytest.mark.hf
def test_a_hub_that_refuses(hub, folder):
  upload = hub_upload.Upload("me/x")
  hub.refuses_commits = True
  with pytest.raises(StorageError, match=r"is written, and could not be upl"):
    upload.send(folder, print)
  hub.token = "another"
  with pytest.raises(UserError, match=r"refuses .*401.*log in") as error:
    hub_upload.Upload("me/y")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x", "", "a/b/c", "../x", "me/", "me/x y"])
def test_names_that_are_none(name):
  with pytest.raises(UserError, match="must be ORGANISATION/NAME"):
    hub_upload.Upload(name)


def test_without_the_library(monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(UserError, match=r"pip install 'dss_jax\[hf\]'"):
    hub_upload.Upload("me/x")


def test_public_says_nothing_without_a_repository(tmp_path, capsys):
  flags = ["export", "--model_dir=none", f"--output_dir={tmp_path / 'out'}"]
  assert main.main([*flags, "--public"]) == 2
  assert (
    "set push_to_hub too (--public, --push_to_hub)" in capsys.readouterr().err
  )


@pytest.mark.hf
@pytest.mark.slow
def test_from_the_command_line(hub, make_student, tmp_path, capsys):
  from dss_jax.students.export import checked_export

  student = make_student(vocabulary="taxonli")
  checked_export.export(student, str(tmp_path / "a"), "huggingface", count=0)
  output = tmp_path / "b"
  flags = ["export", f"--model_dir={tmp_path / 'a'}", "--check=0"]
  flags += [f"--output_dir={output}", "--push_to_hub=me/x"]
  assert main.main(flags) == 0
  printed = capsys.readouterr()
  assert f"uploaded: {hub.url}/me/x/commit/1" in printed.out
  assert "to me/x: README.md, checksums.json, config.json" in printed.err
  assert hub.files == {
    path.name: path.read_bytes() for path in output.iterdir()
  }
  assert hub.repos == {"me/x": True}
