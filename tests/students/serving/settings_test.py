"""Settings and flags: what is refused, and how the server may be named."""

from __future__ import annotations

import argparse

import pytest

from dss_jax.base.errors import UserError
from dss_jax.cli import serve_command
from dss_jax.students.serving import settings
from dss_jax.students.serving.settings import ServeSettings

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("port", -1),
    ("port", 65536),
    ("max_batch", 0),
    ("max_wait_ms", -1.0),
    ("max_wait_ms", float("nan")),
    ("timeout_s", 0.0),
    ("timeout_s", float("inf")),
    ("max_body_bytes", 1),
    ("max_connections", 0),
  ],
)
def test_numbers_out_of_range_are_named(field, value):
  message = f"{field} is {value}; it must be from .* to"
  with pytest.raises(UserError, match=message) as error:
    ServeSettings(**{field: value})
  assert error.value.fields == (f"ServeSettings.{field}",)


def test_a_request_must_be_able_to_wait():
  with pytest.raises(
    UserError, match=r"max_items is 9, more than max_queue, which is 8"
  ):
    ServeSettings(max_items=9, max_queue=8)


@pytest.mark.parametrize(
  "host", ["0.0.0.0", "::", "192.168.1.4", "example.org", "", "127.0.0.1.org"]
)
def test_other_machines_need_a_token(host):
  with pytest.raises(UserError, match="DSS_SERVE_TOKEN"):
    ServeSettings(host=host)
  assert ServeSettings(host=host, token=TOKEN).known_hosts is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_the_loopback_needs_none_and_knows_its_names(host):
  known = ServeSettings(host=host, allowed_hosts=("My.Name",)).known_hosts
  assert known is not None
  assert {"localhost", "127.0.0.1", "[::1]", "my.name"} <= known
  assert (f"[{host}]" if ":" in host else host) in known
  assert "evil.org" not in known


@pytest.mark.parametrize(
  "token",
  ["short", "with a space in the middle", "ünïcödé-token-x", "a\nb" * 9],
)
def test_weak_tokens_are_refused_without_being_shown(token):
  with pytest.raises(UserError) as error:
    ServeSettings(token=token)
  assert token not in str(error.value)


def test_a_token_does_not_show():
  assert TOKEN not in repr(ServeSettings(token=TOKEN))


def test_mapped_addresses_are_what_they_map():
  assert settings.is_loopback("::ffff:127.0.0.1")
  assert not settings.is_loopback("::ffff:10.0.0.1")


def test_flags_and_environment_make_the_settings(monkeypatch):
  parser = argparse.ArgumentParser()
  serve_command.add_arguments(parser)
  monkeypatch.delenv(settings.TOKEN_VARIABLE, raising=False)
  args = parser.parse_args(["--model_dir=x"])
  assert serve_command.settings_of(args) == ServeSettings()
  monkeypatch.setenv(settings.TOKEN_VARIABLE, TOKEN)
  args = parser.parse_args(
    ["--model_dir=x", "--host=0.0.0.0", "--max_wait_ms=2", "--access_log"]
  )
  assert serve_command.settings_of(args) == ServeSettings(
    host="0.0.0.0", max_wait_ms=2.0, access_log=True, token=TOKEN
  )
