"""Refusals of settings, and faults of this machine's set-up, named at once."""

import asyncio
import errno
import json
import socket
import ssl
import subprocess

import async_server
import pytest

from dss_jax.base.errors import UserError
from dss_jax.rationales.extraction_plan import Endpoint
from dss_jax.rationales.teacher_requests import Request, Sampling
from dss_jax.rationales.teachers import (
  FatalError,
  RejectedError,
  TransientError,
  endpoint_errors,
)
from dss_jax.rationales.teachers.openai_endpoint import OpenAIEndpoint

REQUEST = Request("m", (("user", "q"),), Sampling(stop=("\n",), seed=1))
LOCAL = "http://127.0.0.1:9/v1"


# -- settings

# What endpoints answer with status 400 or 422, and the field that they mean.
REFUSED_SETTINGS = [
  (
    "max_tokens",
    {
      "message": "Unsupported parameter: 'max_tokens' is not supported with this"
      " model. Use 'max_completion_tokens' instead.",
      "param": "max_tokens",
    },
  ),
  (
    "temperature",
    {
      "message": "Unsupported value: 'temperature' does not support 0 with this"
      " model. Only the default (1) value is supported.",
      "code": "unsupported_value",
    },
  ),
  ("stop", {"message": "Unsupported parameter: 'stop' is not supported with"}),
  ("seed", {"message": 'Invalid JSON payload. Unknown name "seed": Cannot find'}),
  ("top_p", {"message": "top_p must be unset for this model"}),
  ("temperature", {"message": "temperature: Input should be less than or equal"}),
  ("temperature", {"message": "Invalid 'temperature': decimal above maximum"}),
  ("max_tokens", {"message": "Invalid max_tokens value, the valid range is [1,"
    " 8192]"}),
  ("max_tokens", {"message": "max_tokens is too large: 100000. This model"
    " supports at most 16384 completion tokens", "param": "max_tokens"}),
  ("seed", {"message": "json: cannot unmarshal string into Go struct field"
    " ChatRequest.seed of type int"}),
  ("response_format", {"message": "property 'response_format' is unsupported"}),
  ("response_format", {"message": "Invalid schema", "param":
    "response_format.json_schema"}),
  ("top_k", {"message": "Unrecognized request argument supplied: top_k"}),
  ("logprobs", {"message": "option 'logprobs' is deprecated"}),
  ("n", {"message": "Value error, 'n' must be 1 when using greedy sampling"}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "error"), REFUSED_SETTINGS)
def test_a_refused_setting_is_named(field, error):
  fault = endpoint_errors.setting_fault({"error": error}, error["message"])
  assert fault is not None
  assert fault.field == field
  assert fault.remedy.startswith(f"the field is {field!r}: ")


@pytest.mark.parametrize(
  "message",
  [
    "This model's maximum context length is 4096 tokens, and max_tokens is 256",
    "The prompt is not allowed to say how to stop a car",
    "Your request was flagged: invalid content, as a seed of hatred",
    "The temperature of the discussion must be lower",
    "Invalid value for messages[0].content: must be a string",
    "the response was filtered",
  ],
)
def test_a_refused_prompt_blames_no_setting(message):
  assert endpoint_errors.setting_fault({"message": message}, message) is None


def test_a_content_filter_is_about_the_prompt():
  body = {"error": {"message": "filtered, invalid", "param": "prompt"}}
  assert endpoint_errors.setting_fault(body, "filtered, invalid") is None


# -- set-up


@pytest.fixture
def clean(monkeypatch):
  for name in ("http", "https", "all", "no"):
    for shown in (f"{name}_proxy", f"{name}_proxy".upper()):
      monkeypatch.delenv(shown, raising=False)
  for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
  return monkeypatch


@pytest.mark.parametrize(
  ("url", "variable", "value", "message"),
  [
    (LOCAL, "ALL_PROXY", "socks5://127.0.0.1:9", "ALL_PROXY names a SOCKS"),
    (LOCAL, "HTTP_PROXY", "socks5h://127.0.0.1:9", "HTTP_PROXY names a SOCKS"),
    (
      LOCAL,
      "http_proxy",
      "http://127.0.0.1:9",
      "http_proxy sends its requests",
    ),
    (LOCAL, "ALL_PROXY", "socks4://127.0.0.1:9", "no usable URL of a proxy"),
    (LOCAL, "HTTP_PROXY", "http://u:secret@x:port", "no usable URL of a proxy"),
    (None, "HTTPS_PROXY", "socks5://127.0.0.1:9", "pip install socksio"),
    (None, "SSL_CERT_FILE", "/no/such/file", "SSL_CERT_FILE and SSL_CERT_DIR"),
    (None, "SSL_CERT_FILE", __file__, "certificates of this machine"),
  ],
)
def test_set_up_is_checked_before_anything_is_asked(
  clean, url, variable, value, message
):
  clean.setenv(variable, value)
  with pytest.raises(UserError, match=message) as caught:
    OpenAIEndpoint(Endpoint("t", "m", base_url=url))
  assert "\n" not in str(caught.value)
  assert "secret" not in str(caught.value)
  assert ("set NO_PROXY=127.0.0.1" in str(caught.value)) == (url is not None)


def test_no_proxy_is_heeded(clean):
  clean.setenv("HTTP_PROXY", "http://127.0.0.1:9")
  for value in ("127.0.0.1", "*", "127.0.0.0/8", "example.org,127.0.0.1"):
    clean.setenv("NO_PROXY", value)
    OpenAIEndpoint(Endpoint("t", "m", base_url=LOCAL))


async def _complete(url, was_reached):
  endpoint = OpenAIEndpoint(Endpoint("t", "m", base_url=url, timeout_s=5))
  endpoint._was_reached = was_reached
  try:
    return await endpoint.complete(REQUEST, "a")
  except Exception as error:
    return error
  finally:
    await endpoint.close()


def ask(url, *, was_reached=False):
  """What comes of asking a URL once."""

  return asyncio.run(_complete(url, was_reached))


@pytest.fixture
def certificate(tmp_path):
  path = tmp_path / "own.pem"
  command = [
    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
    *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
    *("-keyout", path, "-out", path),
  ]
  try:
    subprocess.run(command, check=True, capture_output=True)
  except FileNotFoundError:
    pytest.skip("needs openssl")
  made = path.read_bytes()
  # The key first, as `openssl` wrote it; then the certificate.
  return path, made


def _answering(content):
  async def answer(reader, writer):
    await reader.read(1)
    writer.write(content)
    await writer.drain()

  return answer


def ask_server(content, scheme="https", tls=None, host="localhost"):
  """What comes of asking a server on this machine, and once it had answered."""

  async def main():
    found = []
    async with async_server.serving(_answering(content), ssl=tls) as port:
      url = f"{scheme}://{host}:{port}/v1"
      for was_reached in (False, True):
        found.append(await _complete(url, was_reached))
    return found

  return asyncio.run(main())


ANSWER = b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}"


def test_an_untrusted_certificate_is_named(clean, certificate, tmp_path):
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  context.load_cert_chain(certificate[0])
  first, later = ask_server(ANSWER, tls=context)
  assert isinstance(first, FatalError)
  assert "set SSL_CERT_FILE" in str(first)
  # An endpoint that worked before may come back.
  assert isinstance(later, TransientError)
  # The remedy is one.
  clean.setenv("SSL_CERT_FILE", str(certificate[0]))
  first, _ = ask_server(ANSWER, tls=context)
  assert isinstance(first, TransientError)
  assert first.kind == "bad_response"


def test_tls_with_a_server_that_has_none_is_named(clean):
  first, later = ask_server(ANSWER)
  assert isinstance(first, FatalError)
  assert "http:// in place of https://" in str(first)
  assert isinstance(later, TransientError)


def test_a_proxy_that_wants_a_password_is_named(clean):
  denial = b"HTTP/1.1 407 Denied\r\nContent-Length: 0\r\n\r\n"

  async def main(url):
    async with async_server.serving(_answering(denial)) as port:
      clean.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
      clean.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
      return await _complete(url, False)

  for url, message in (
    ("http", "the proxy wants"),
    ("https", "HTTPS_PROXY names"),
  ):
    error = asyncio.run(main(f"{url}://models.example/v1"))
    assert isinstance(error, FatalError)
    assert message in str(error)


@pytest.mark.parametrize(
  ("error", "message"),
  [
    (
      socket.gaierror(-2, "Name or service not known"),
      "no machine has this name",
    ),
    (OSError(errno.ENETUNREACH, "Network is unreachable"), "check the network"),
    (PermissionError(errno.EACCES, "Permission denied"), "check the network"),
  ],
)
def test_failures_that_will_not_pass_are_fatal_until_it_was_reached(
  error, message
):
  for was_reached, kind in ((False, FatalError), (True, TransientError)):
    found = endpoint_errors.connection_failure(
      error, "https://models.example/v1", was_reached=was_reached
    )
    assert isinstance(found, kind)
    assert (message in str(found)) != was_reached


@pytest.mark.parametrize("was_reached", [False, True])
def test_too_many_open_files_are_named(was_reached):
  error = OSError(errno.EMFILE, "Too many open files")
  found = endpoint_errors.connection_failure(
    error, LOCAL, was_reached=was_reached
  )
  assert isinstance(found, FatalError)
  assert "lower concurrency" in str(found)
  assert found.fields == "AskOptions.concurrency"


def test_a_server_that_is_not_up_yet_is_waited_for(clean):
  error = ask(LOCAL)
  assert isinstance(error, TransientError)
  assert error.kind == "connection"


def test_a_proxy_that_is_not_there_is_named(clean):
  clean.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
  error = ask("https://models.example/v1")
  assert isinstance(error, TransientError)
  assert "through the proxy that HTTPS_PROXY names" in str(error)


def test_a_connection_that_is_lost_after_sending_is_another_kind(clean):
  first, _ = ask_server(b"", scheme="http", host="127.0.0.1")
  assert isinstance(first, TransientError)
  assert first.kind == "dropped"


def test_an_unusable_host_is_no_fault_of_the_prompt(clean):
  error = ask("http://" + "a" * 70 + ".example/v1")
  assert isinstance(error, FatalError), error
  assert not isinstance(error, RejectedError)
  assert json.dumps(str(error)).count("\\n") == 0
