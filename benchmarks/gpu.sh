#!/usr/bin/env bash
# Everything that is measured on one GPU, in three parts of at most 9 minutes:
#
#   python benchmarks/prepare.py --data_dir DIR --vocabulary SPM_MODEL   # beforehand, anywhere
#   benchmarks/gpu.sh --part 1 --out FOLDER
#
# No network, TensorFlow, SeqIO or gin is needed; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
