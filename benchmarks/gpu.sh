#!/usr/bin/env bash
# What is measured on one GPU, in a call of at most 6 minutes and one of 4:
#
#   python benchmarks/prepare.py --data_dir DIR --vocabulary SPM_MODEL   # beforehand, anywhere
#   benchmarks/gpu.sh --quick --out FOLDER
#   benchmarks/gpu.sh --more --out FOLDER
#
# No network, TensorFlow, SeqIO or gin is needed; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
