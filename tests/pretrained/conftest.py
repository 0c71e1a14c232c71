"""What the tests of checkpoints share."""

import importlib.util
import pathlib
import sys

import pytest


@pytest.fixture(scope="session")
def folders():
  """The module that writes small Hugging Face folders."""
  path = pathlib.Path(__file__).with_name("folders.py")
  spec = importlib.util.spec_from_file_location("pretrained_folders", path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules["pretrained_folders"] = module
  spec.loader.exec_module(module)
  return module
