"""`dss-jax data stats|show|convert`, from the flags to what is printed."""

import argparse
import json
import re
import subprocess
import sys

import pytest

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.cli import data_command, flag_hints, gin_config
from dss_jax.data.feeding import batch_files, training_data
from dss_jax.data.packing import packed_features
from dss_jax.datasets.records import (
  Rationale,
  Record,
  read_records,
  write_records,
)


@pytest.fixture
def data(fixtures, monkeypatch):
  """Runs `dss-jax data ...` on the fixtures; returns the exit status."""
  monkeypatch.setenv("DSS_DATA_DIR", str(fixtures / "release"))
  return _run


def _run(*flags):
  parser = argparse.ArgumentParser(prog="dss-jax data")
  parser.set_defaults(debug=False)
  data_command.add_arguments(parser)
  args = parser.parse_args([str(flag) for flag in flags])
  try:
    return data_command.run(args)
  except UserError as error:
    message = flag_hints.with_hints(error, args.field_flags)
    raise UserError(message) from error


# --- stats -------------------------------------------------------------------


def test_stats_as_json(data, capsys):
  assert data("stats", "--dataset", "svamp", "--json") == 0
  report = json.loads(capsys.readouterr().out)
  assert list(report["splits"]) == ["train", "test"]
  train = report["splits"]["train"]
  assert train["rows"] == 14
  assert train["unparsed"] == 4
  assert train["unparsed_by_reason"] == {
    "no_marker": 2, "no_label": 1, "several_markers": 1,
  }  # fmt: skip
  assert train["unusable_labels"] == 2
  assert train["duplicate_inputs"] == 1
  assert train["teacher_equals_gold"] == {
    "compared_by": "value", "of": 14,
    "strict": 6, "strict_percent": 42.86,
    "tolerant": 6, "tolerant_percent": 42.86,
  }  # fmt: skip
  assert train["by_parser"]["tolerant"]["unparsed_by_reason"] == {
    "truncated": 2, "unevaluable": 2, "no_marker": 1,
  }  # fmt: skip
  assert report["after_splitting"]["rows"] == {
    "train": 12, "validation": 2, "test": 6,
  }  # fmt: skip
  assert report["vocabulary"].startswith("bytes")
  assert "MIT" in report["license"]
  label = train["tokens"]["label"]
  assert label["count"] == 14
  assert label["max"] == len("( ( 30.0 + 25.0 ) + 5.0 )") + 1


def test_stats_count_extra_records_and_whose_their_labels_are(data, capsys):
  flags = ("stats", "--dataset=svamp", "--extra_records=asdiv")
  assert data(*flags, "--json") == 0
  report = json.loads(capsys.readouterr().out)
  assert report["extra_records"] == {
    "of": "asdiv", "rows": 6, "gold_labels": 0, "teacher_labels": 5,
    "no_label": 1, "held_out_inputs": 0,
  }  # fmt: skip
  # the dataset's own numbers stay as they are
  assert report["splits"]["train"]["rows"] == 14
  assert data(*flags) == 0
  assert (
    "Extra training records of asdiv: 6; labels: 0 gold, 5 the teacher's, 1"
    " missing; left out because their inputs are validated or tested on: 0"
    in " ".join(capsys.readouterr().out.split())
  )


def test_stats_count_the_rationales_of_each_teacher(data, capsys):
  flags = ("stats", "--dataset=svamp", "--rationale_source=palm+gpt-neox")
  assert data(*flags, "--json", "--split=train") == 0
  report = json.loads(capsys.readouterr().out)
  assert report["rationale_source"] == "palm+gpt-neox"
  train = report["splits"]["train"]
  assert train["rationales"] == 28
  assert train["sources"] == {"gpt-neox": 14, "palm": 14}
  with pytest.raises(UserError, match="one of palm, gpt-neox, human, or sev"):
    data("stats", "--dataset=svamp", "--rationale_source=palm+llama")


def test_stats_of_the_chosen_parser_come_first(data, capsys):
  data("stats", "--dataset=cqa", "--parser=tolerant", "--json", "--split=train")
  train = json.loads(capsys.readouterr().out)["splits"]["train"]
  assert train["statuses"] == train["by_parser"]["tolerant"]["statuses"]
  assert train["statuses"]["letter_text_mismatch"] == 1


def test_stats_as_a_table(data, capsys):
  assert data("stats", "--dataset", "anli1") == 0
  out = capsys.readouterr().out
  assert re.search(r"records +│ +12 │ +6 │ +6 │", out)
  assert re.search(r"official parser", out)
  assert re.search(r"teacher = gold +│ 4 +33.33 % │ 4 +66.67 %", out)
  assert re.search(r"several_markers +│ +1 │ +0 │ +0 │", out)
  assert re.search(r"train +│ rationale +│ +7 │", out)
  assert "CC BY-NC 4.0" in out
  assert "train 12, validation 6, test 6" in out
  assert max(map(len, out.splitlines())) <= 100


def test_stats_of_the_built_in_dataset(data, capsys):
  assert data("stats", "--dataset=taxonli", "--taxonli_num_train=30") == 0
  out = capsys.readouterr().out
  assert re.search(r"records +│ +30 │ +500 │ +1,000 │", out)
  assert re.search(r"contradiction +│ +10 │", out)
  assert "sentencepiece" in out


def test_stats_count_a_prefix(data, capsys):
  lengths = []
  for prefix in ("", "predict: "):
    data("stats", "--dataset=cqa", "--json", "--prefix", prefix, "--limit=5")
    tokens = json.loads(capsys.readouterr().out)["splits"]["train"]["tokens"]
    lengths.append(tokens["input"]["mean"])
    assert tokens["input"]["count"] == 5
  assert lengths[1] == pytest.approx(lengths[0] + 9, abs=0.11)


def _own_file(tmp_path):
  path = tmp_path / "mine.csv"
  path.write_text(
    "question,answer,why,said\n"
    "Q1?,yes,because,Yes.\n"
    "Q2?,no\n"
    "Q2?,no,because,yes\n"
  )
  mapping = ("--field_mapping", "input=question", "label=answer",
             "rationale=why", "rationale_label=said")  # fmt: skip
  return path, mapping


def _five_classes(path, count=40):
  classes = ["billing", "login", "refund", "bug", "other"]
  lines = [f"Ticket {i},{classes[i % 5 if i % 7 else 0]}" for i in range(count)]
  path.write_text("\n".join(["text,team", *lines]))
  return path


def _own_dataset(tmp_path, **fields):
  mapping = {"input": "text", "label": "team"}
  files = {"train": _five_classes(tmp_path / "train.csv")}
  files["test"] = tmp_path / "test.csv"
  datasets.register(
    datasets.DatasetSpec(
      "tickets",
      datasets.RecordFiles(files, field_mapping=mapping),
      source_splits=("train", "test"),
      **fields,
    )
  )


def test_stats_find_a_closed_set_of_labels(data, tmp_path, capsys):
  path = _five_classes(tmp_path / "train.csv")
  mapping = ("--field_mapping", "input=text", "label=team")
  assert data("stats", "--input", path, *mapping) == 0
  out = " ".join(capsys.readouterr().out.split())
  assert re.search(r"billing │ 12 │", out)
  assert re.search(r"other │ 7 │", out)
  assert "5 labels. If these are all there are" in out
  assert "labels=('billing', 'bug', 'login', 'other', 'refund')" in out
  assert "label_scores" in out


def test_stats_show_labels_that_look_alike(data, tmp_path, capsys):
  path = tmp_path / "a.csv"
  path.write_text("input,label\n" + "a,yes\nb,yes \n" * 3)
  assert data("stats", "--input", path) == 0
  out = capsys.readouterr().out
  assert re.search(r"  yes +│ +3 │", out)
  assert re.search(r"  'yes ' +│ +3 │", out)
  # No rationale has a label of its own to be compared.
  assert "teacher = gold" not in out


def test_stats_continue_without_a_missing_split(data, tmp_path, capsys):
  _own_dataset(tmp_path)
  assert data("stats", "--dataset=tickets", "--json") == 0
  report = json.loads(capsys.readouterr().out)
  assert report["splits"]["train"]["rows"] == 40
  assert report["splits"]["train"]["labels"]["billing"] == 12
  assert list(report["missing"]) == ["test"]
  assert report["after_splitting"]["rows"] == {"train": 36, "validation": 4}
  assert data("stats", "--dataset=tickets") == 0
  assert "test is missing: no such file" in capsys.readouterr().out
  with pytest.raises(UserError, match=r"no such file: .*test\.csv"):
    data("stats", "--dataset=tickets", "--split=test")
  (tmp_path / "train.csv").rename(tmp_path / "test.csv")
  assert data("stats", "--dataset=tickets", "--json") == 0
  report = json.loads(capsys.readouterr().out)
  assert list(report["splits"]) == ["test"]
  (tmp_path / "test.csv").unlink()
  with pytest.raises(UserError, match="no such file"):
    data("stats", "--dataset=tickets")


def test_stats_name_labels_that_the_dataset_does_not_list(
  data, tmp_path, capsys
):
  _own_dataset(tmp_path, labels=("billing", "login", "refund", "bug"))
  assert data("stats", "--dataset=tickets", "--split=train") == 0
  out = " ".join(capsys.readouterr().out.split())
  assert "1 labels are not among the dataset's labels=" in out
  assert "'bug'): 'other'." in out
  assert "If these are all" not in out


def test_stats_name_the_characters_that_a_vocabulary_lacks(
  data, tmp_path, capsys
):
  path = tmp_path / "a.jsonl"
  path.write_text('{"input": "a 日", "label": "本"}\n', encoding="utf-8")
  assert data("stats", "--input", path, "--vocabulary=taxonli") == 0
  out = " ".join(capsys.readouterr().out.split())
  assert "The vocabulary cannot write '日' '本'" in out


def test_stats_of_a_file_with_a_malformed_line(data, tmp_path, capsys):
  path, mapping = _own_file(tmp_path)
  assert data("stats", "--input", path, "--json", *mapping) == 2
  printed = capsys.readouterr()
  found = json.loads(printed.out)["splits"]["all"]
  assert (found["rows"], found["malformed"]) == (2, 1)
  assert found["malformed_lines"] == [
    {"file": str(path), "line": 3,
     "reason": "the number of cells is 2, the header has 4"}
  ]  # fmt: skip
  # "Yes." is not the label, and says the same.
  assert found["teacher_equals_gold"]["strict"] == 0
  assert found["teacher_equals_gold"]["tolerant"] == 1
  assert printed.err.count("\n") == 1
  assert f"1 of 3 lines of {path}" in printed.err
  assert data("stats", "--input", path, "--skip_malformed", *mapping) == 0
  printed = capsys.readouterr()
  assert printed.err == ""
  assert f"{path}:3: the number of cells" in printed.out.replace("\n", "")


def test_stats_of_a_file_by_value(data, tmp_path, capsys):
  path = tmp_path / "sums.jsonl"
  write_records(
    path, [Record("a", "i", "( 2.0 * 3.0 )", (Rationale("r", "6"),))]
  )
  for flags, count in (((), 0), (("--by_value",), 1)):
    data("stats", "--input", path, "--json", *flags)
    found = json.loads(capsys.readouterr().out)["splits"]["all"]
    assert found["teacher_equals_gold"]["tolerant"] == count


@pytest.mark.shared
def test_stats_of_the_released_files(shared_data, capsys):
  """The published facts about the release, through the command line."""
  folder = shared_data / "dss_release"
  expected = {
    ("svamp", "train"): (800, 13, 73.25, 73.25),
    ("svamp", "test"): (200, 2, 74.0, 74.0),
    ("cqa", "train"): (9741, 3, 74.26, 76.82),
    ("cqa", "test"): (1221, 0, 77.23, 79.36),
  }
  for (name, split), numbers in expected.items():
    _run("stats", "--dataset", name, "--data_dir", folder, "--json",
         "--split", split, "--limit", 10)  # fmt: skip
    found = json.loads(capsys.readouterr().out)["splits"][split]
    agreement = found["teacher_equals_gold"]
    assert numbers == (
      found["rows"], found["unparsed"],
      agreement["strict_percent"], agreement["tolerant_percent"],
    )  # fmt: skip


@pytest.mark.shared
def test_token_lengths_of_the_released_cqa(shared_data, capsys):
  _run("stats", "--dataset=cqa", "--split=train", "--json",
       "--data_dir", shared_data / "dss_release",
       "--vocabulary", shared_data / "dss_spm.model",
       "--prefix", "predict: ")  # fmt: skip
  tokens = json.loads(capsys.readouterr().out)["splits"]["train"]["tokens"]
  assert tokens["input"]["mean"] == 46.9
  assert tokens["input"]["p95"] == 61
  assert tokens["label"]["mean"] == 2.6
  assert tokens["rationale"]["mean"] == 30.4


# --- show --------------------------------------------------------------------


@pytest.mark.slow
def test_show_is_what_the_student_sees(data, capsys):
  assert (
    data("show", "--task=esnli_dss", "--json", "--records_per_batch=4") == 0
  )
  shown = json.loads(capsys.readouterr().out)
  # Four records, two sub-tasks; packing may borrow from the next batch.
  assert sum(shown["batch"]["examples"].values()) == 8
  assert 0 <= shown["batch"]["padding"] < 1
  assert [s["name"] for s in shown["subtasks"]] == ["label", "rationale"]
  seen = {}
  for row in shown["rows"]:
    assert row["encoder_tokens"] == sum(
      len(example["input_ids"]) for example in row["examples"]
    )
    assert row["encoder_tokens"] <= shown["batch"]["encoder_length"]
    for example in row["examples"]:
      seen[example["subtask"], example["record"]] = example
      # Bytes of the text, and the end token in the middle and at the end.
      assert example["input_ids"] == _byte_ids(example["inputs"])
      assert example["target_ids"] == _byte_ids(example["targets"])
      assert example["inputs"].startswith(f"[{example['subtask']}] ")
      assert example["inputs"].count("</s>") == 2
      assert example["weight"] == 1.0
  assert seen


def _byte_ids(text):
  ids = []
  for position, part in enumerate(text.split("</s>")):
    ids += ([1] if position else []) + [byte + 3 for byte in part.encode()]
  return ids


def test_show_for_people(data, capsys):
  flags = ("--task=svamp_dss", "--limit=1", "--seed=1", "--records_per_batch=4",
           "--label_prefix=predict: ", "--rationale_prefix=explain: ",
           "--ids")  # fmt: skip
  assert data("show", *flags) == 0
  out = capsys.readouterr().out
  assert "sub-task label: 12 examples, rate 1" in out
  assert re.search(
    r"batch 0: \d label, \d rationale examples \(about 4 rec", out
  )
  assert re.search(r"row 0: \d+ examples, \d+ of \d+ encoder and", out)
  assert "row 1" not in out
  assert re.search(
    r"segment 1: (label|rationale), record train-\d+, weight 1", out
  )
  assert re.search(r"reads +\(\d+ tokens\) +'(predict|explain): ", out)
  assert "</s>'" in out


def test_show_one_example_a_row(data, capsys):
  flags = ("--task=cqa_label", "--no_packing", "--json", "--batch_size=3",
           "--split=test", "--limit=9")  # fmt: skip
  assert data("show", *flags) == 0
  shown = json.loads(capsys.readouterr().out)
  assert [len(row["examples"]) for row in shown["rows"]] == [1, 1, 1]
  assert shown["rows"][0]["examples"][0]["record"].startswith("test-")


def test_show_marks_what_a_vocabulary_cannot_write(data, capsys):
  flags = ("--task=svamp_standard", "--vocabulary=taxonli", "--no_packing")
  assert data("show", *flags, "--json") == 0
  shown = json.loads(capsys.readouterr().out)
  assert "⁇" in shown["rows"][0]["examples"][0]["inputs"]


GIN_FLAGS = (
  "--gin_file=models/taxonli.gin",
  "--gin_file=runs/train.gin",
  "--gin_file=data/taxonli.gin",
  "--gin_file=methods/dss.gin",
  "--gin_bindings=data.DataOptions.taxonli_num_train = 60",
  "--gin_bindings=RECORDS_PER_BATCH = 8",
  "--gin_bindings=RANDOM_SEED = 3",
  "--gin_bindings=data.MethodOptions.label_prefix = 'predict: '",
)


def test_show_and_batches_of_a_configuration_are_those_of_the_run(
  data, tmp_path, capsys
):
  assert data("show", *GIN_FLAGS, "--json", "--limit=99") == 0
  shown = json.loads(capsys.readouterr().out)
  config = gin_config.instance("train.train")
  read = training_data.load(
    config.train_dataset_cfg, config.vocabulary, seed=config.random_seed
  )
  assert shown["task_feature_lengths"] == {"inputs": 48, "targets": 64}
  shape = read.shape
  assert [shown["batch"][name] for name in ("rows", "encoder_length")] == [
    shape.rows, shape.encoder_length,
  ]  # fmt: skip
  expected = packed_features.unpack(read.batches[0])
  found = [example for row in shown["rows"] for example in row["examples"]]
  assert [e["input_ids"] for e in found] == [e.inputs for e in expected]
  assert any(e["inputs"].startswith("predict: ") for e in found)
  # The same from the folder of the run.
  (tmp_path / "config.gin").write_text(
    "MODEL_DIR = 'elsewhere'\nTRAIN_STEPS = 1\n"
    + gin_config.operative_config(),
    encoding="utf-8",
  )
  flags = ("--model_dir", tmp_path, "--json", "--limit=99")
  assert data("show", *flags) == 0
  assert json.loads(capsys.readouterr().out) == shown
  assert data("show", *flags, "--split=validation") == 0
  assert json.loads(capsys.readouterr().out)["split"] == "validation"
  folder = tmp_path / "batches"
  flags = ("--steps=1", "--output_dir", folder)
  assert data("batches", *GIN_FLAGS, *flags) == 0
  written = batch_files.BatchFiles(folder)[0]
  for name, array in read.batches[0].items():
    assert (written[name] == array).all()


def test_show_cuts_as_the_packaged_configuration_does(data, tmp_path, capsys):
  for flags, lengths in (
    ((), {"inputs": 768, "targets": 384}),
    (("--inputs_length=30",), {"inputs": 30, "targets": 384}),
  ):
    assert data("show", "--task=svamp_dss", "--json", *flags) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["task_feature_lengths"] == lengths
    cut = "\n".join(shown["texts"])
    assert ("12 of 12 inputs are cut to 30 tokens" in cut) == bool(flags)
  folder = tmp_path / "batches"
  flags = ("--inputs_length=30", "--steps=1", "--output_dir", folder)
  assert data("batches", "--task=svamp_dss", *flags) == 0
  assert "12 of 12 inputs are cut to 30 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ((), "give a task"),
    (("--task=svamp_dss",), "--task is 'svamp_dss', which a configuration"),
    (("--label_prefix=x",), "--label_prefix is 'x', which a configuration"),
    (("--train_fraction=0.5",), "--train_fraction is 0.5, which"),
    (("--model_dir=/no/such",), "no config.gin in '/no/such'"),
  ],
)
def test_a_configuration_and_flags_exclude_each_other(data, flags, message):
  given = GIN_FLAGS if flags and "model_dir" not in flags[0] else ()
  with pytest.raises(UserError, match=message):
    data("show", *given, *flags)


# --- convert -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_convert_a_dataset(data, tmp_path, suffix, capsys):
  output = tmp_path / f"svamp_{{split}}{suffix}"
  assert data("convert", "--dataset=svamp", "--output", output) == 0
  assert "test: 6 records -> " in capsys.readouterr().out
  records, problems = read_records(tmp_path / f"svamp_train{suffix}")
  assert problems == []
  assert len(records) == 14
  assert records[0].rationales[0].source == "palm"
  assert sorted(path.stem for path in tmp_path.iterdir()) == [
    "svamp_test", "svamp_train",
  ]  # fmt: skip


@pytest.mark.parametrize("flags", [(), ("--as_trained",)])
def test_a_run_on_what_was_converted_cuts_validation_once(
  data, tmp_path, fixtures, flags, capsys
):
  """It sees the records that a run on the dataset itself sees."""
  output = tmp_path / "{split}.jsonl"
  assert data("convert", "--dataset=svamp", "--output", output, *flags) == 0
  hint = "validation data are cut: train on all of these files"
  assert (hint in capsys.readouterr().out) == bool(flags)
  assert (tmp_path / "validation.jsonl").exists() == bool(flags)
  release = datasets.DataOptions(data_dir=str(fixtures / "release"))
  converted = datasets.DataOptions(data_dir=str(tmp_path), source="records")
  for split, count in (("train", 12), ("validation", 2), ("test", 6)):
    expected, found = (
      [r.id for r in datasets.load_split("svamp", split, options=options)]
      for options in (release, converted)
    )
    assert found == expected
    assert len(found) == count


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ("--split=validation", "no 'validation' data: .* --as_trained writes them"),
    ("--train_fraction=0.5", r"add --as_trained \(--train_fraction"),
    ("--split_policy=official", "add --as_trained"),
    ("--extra_records=asdiv", "add --as_trained"),
    ("--as_trained --split=train", "would cut others off"),
  ],
)
def test_convert_does_not_cut_twice(data, tmp_path, flags, message):
  output = tmp_path / "{split}.jsonl"
  with pytest.raises(UserError, match=message):
    data("convert", "--dataset=svamp", "--output", output, *flags.split())
  assert list(tmp_path.iterdir()) == []


def test_convert_the_validation_data_of_a_run(data, tmp_path):
  output = tmp_path / "a.jsonl"
  flags = ("--split=validation", "--as_trained", "--output", output)
  assert data("convert", "--dataset=svamp", *flags) == 0
  assert len(read_records(output)[0]) == 2


def test_convert_with_options(data, tmp_path):
  output = tmp_path / "a.jsonl"
  flags = ("--split=train", "--output", output,
           "--label_spelling=normalized", "--limit=4")  # fmt: skip
  assert data("convert", "--dataset=svamp", *flags) == 0
  records, _ = read_records(output)
  assert len(records) == 4
  assert all(re.match(r"\([^ ]", record.label or "") for record in records)


def test_convert_a_file(data, tmp_path, capsys):
  path, mapping = _own_file(tmp_path)
  output = tmp_path / "mine.jsonl"
  with pytest.raises(UserError, match=r"1 of 3 lines of .*mine.csv:3: the num"):
    data("convert", "--input", path, "--output", output, *mapping)
  assert not output.exists()
  flags = ("--skip_malformed", *mapping)
  assert data("convert", "--input", path, "--output", output, *flags) == 0
  printed = capsys.readouterr()
  assert "2 records ->" in printed.out
  assert "1 malformed lines left out" in printed.err
  records, _ = read_records(output)
  assert records[1].rationales == (Rationale("because", "yes"),)


# --- wrong use ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ("stats", "give either --dataset NAME or --input FILE"),
    ("stats --dataset=svamp --input=a.csv", "give either"),
    ("stats --dataset=sst", "unknown dataset 'sst'; known: anli1"),
    ("stats --dataset=svamp --split=validation", "has no 'validation' data"),
    (
      "stats --dataset=svamp --limit=0",
      "limit is 0; it must be 1 or more, or None (--limit)",
    ),
    (
      "stats --dataset=svamp --parser=x",
      "parser is 'x'; it must be one of official",
    ),
    ("stats --dataset=svamp --vocabulary=x.model", "x.model"),
    ("stats --dataset=svamp --skip_malformed", "are for --input"),
    ("stats --dataset=svamp --data_dir=/nonexistent", "no folder 'svamp' in"),
    ("stats --input=a.csv --split=train", "--split is for --dataset"),
    ("stats --input=missing.csv", "no such file: missing.csv"),
    ("stats --input=a.csv --field_mapping input", "write FIELD=KEY"),
    ("stats --input=a.csv --field_mapping input=a input=b", "'input' twice"),
    ("stats --input=a.csv --field_mapping x=a", "'x' is no field"),
    ("stats --input=a.csv --field_mapping input=", "input must name a key"),
    ("stats --input=a.csv --field_mapping rationale= rationale=a", "twice"),
    ("convert --dataset=svamp --output=a.csv", "one file for 2 splits"),
    ("convert --input=a.csv --output={split}.csv", "{split} is for --dataset"),
    ("convert --dataset=svamp --split=x --output=a.csv", "no 'x' data"),
    ("convert --dataset=svamp --split=test --output=a.xls", "suffix '.xls'"),
    ("show --task=svamp_dds", "no task 'svamp_dds'"),
    ("show --task=svamp_dss --step=-1", "step is -1"),
    (
      "show --task=svamp_dss --module=not.there",
      "'not.there' cannot be imported",
    ),
    ("show --task=svamp_dss --rationale_filter=x", "rationale_filter is 'x'"),
  ],
)
def test_wrong_flags(data, flags, message):
  with pytest.raises(UserError) as error:
    data(*flags.split(" "))
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_hold_out_and_make_a_vocabulary(data, tmp_path, capsys):
  table = tmp_path / "tickets.csv"
  rows = [f"cannot do thing {i},team{i % 3}" for i in range(200)]
  table.write_text("\n".join(["text,team", *rows]) + "\n")
  flags = ("--input", table, "--field_mapping", "input=text", "label=team")
  output = f"{tmp_path}/mine/{{split}}.jsonl"
  with pytest.raises(UserError, match=r"write \{split\} in --output"):
    data("convert", *flags, "--test_fraction=0.2", f"--output={table}.jsonl")
  shares = ("--validation_fraction=0.1", "--test_fraction=0.2")
  assert data("convert", *flags, *shares, f"--output={output}") == 0
  parts = [
    {r.input for r in read_records(tmp_path / "mine" / f"{split}.jsonl")[0]}
    for split in ("train", "validation", "test")
  ]
  assert sum(map(len, parts)) == len(set.union(*parts)) == 200
  assert all(parts)
  printed = capsys.readouterr().out
  assert f"test: {len(parts[2])} records ->" in printed
  model = tmp_path / "own.model"
  train = tmp_path / "mine" / "train.jsonl"
  assert data("vocabulary", "--input", train, f"--output={model}") == 0
  assert f"of {len(parts[0])} records" in capsys.readouterr().out
  stats = ("stats", "--input", train, f"--vocabulary={model}", "--json")
  assert data(*stats) == 0
  report = json.loads(capsys.readouterr().out)
  assert report["splits"]["all"]["tokens"]["label"]["max"] <= 3


def test_several_rationale_columns(data, tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("id,input,e1,e2\n1,i,first,second\n")
  output = tmp_path / "a.jsonl"
  data("convert", "--input", path, "--output", output,
       "--field_mapping", "rationale=e1", "rationale=e2")  # fmt: skip
  records, _ = read_records(output)
  assert [r.text for r in records[0].rationales] == ["first", "second"]


def test_flags_cost_nothing_to_define():
  """The parser is built on every start of `dss-jax`, also for `--help`."""
  code = """
import argparse, sys
from dss_jax.cli import data_command
data_command.add_arguments(argparse.ArgumentParser())
heavy = {"numpy", "rich", "sentencepiece", "pyarrow", "jax", "tensorflow"}
print(sorted(heavy & set(sys.modules)))
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
  "flag",
  [
    "--records_per_batch=-1",
    "--attention_length=0",
    "--inputs_length=1",
    "--rationale_filter=x",
    "--vocabulary=nowhere",
  ],
)
def test_messages_name_the_flags_of_the_command(flag):
  with pytest.raises(UserError) as error:
    _run("show", "--task=taxonli_dss", flag)
  name = flag.partition("=")[0]
  flag = name.removeprefix("--")
  line = flag_hints.with_hints(error.value, {flag: flag})
  assert name in line
  assert "\n" not in line
