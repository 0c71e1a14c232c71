"""Which folder is a student, and what errors say of other folders."""

import argparse

import pytest

from dss_jax.base.errors import UserError
from dss_jax.cli import flags, run_flags


def _parsed(*argv):
  parser = argparse.ArgumentParser()
  flags.add_flags(parser, run_flags.StudentFlags)
  parser.set_defaults(debug=True)
  return parser.parse_args(argv)


def test_a_run_is_known_by_its_configuration(tmp_path):
  assert not run_flags.is_run(str(tmp_path))
  (tmp_path / "config.gin").write_text("")
  assert run_flags.is_run(str(tmp_path))


def test_the_configuration_of_a_run_is_read(tmp_path, monkeypatch):
  (tmp_path / "config.gin").write_text("")

  def read_run(args):
    raise UserError(f"read {args.model_dir}")

  monkeypatch.setattr(run_flags, "read_run", read_run)
  with pytest.raises(UserError, match=f"read {tmp_path}"):
    run_flags.open_student(_parsed(f"--model_dir={tmp_path}"))


def test_a_folder_without_a_student_is_named(tmp_path):
  with pytest.raises(UserError, match=r"has neither .* nor the config\.json"):
    run_flags.open_student(_parsed(f"--model_dir={tmp_path}"))


def test_an_export_for_another_program_is_named(tmp_path):
  (tmp_path / "dss_jax.json").write_text("{}")
  for name in ("params.safetensors", "config.json", "model.bin"):
    (tmp_path / name).touch()
  with pytest.raises(UserError, match="exported for another program"):
    run_flags.open_student(_parsed(f"--model_dir={tmp_path}"))


def test_an_exported_student_has_one_checkpoint(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  args = _parsed(f"--model_dir={tmp_path}", "--checkpoint=latest")
  with pytest.raises(UserError, match="leave --checkpoint out"):
    run_flags.open_student(args)
