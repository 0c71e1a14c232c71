#!/usr/bin/env bash
# Train on this machine: the CPU, or one GPU where JAX sees one.
#
#   launch/local.sh RUN_FOLDER [any dss-jax train flags ...]
#
#   launch/local.sh runs/taxonli --gin_file=models/taxonli.gin \
#     --gin_file=runs/taxonli.gin --gin_file=data/taxonli.gin \
#     --gin_file=methods/dss.gin --gin.TRAIN_STEPS=1200
#
# DSS_DEVICE=cpu keeps off the GPU; DSS_DEVICE=0 (1, ...) picks one.
# PYTHON is the interpreter: by default the checkout's .venv, else python3.
# Restarted with the same folder, the run resumes where it stopped.
set -euo pipefail

case "${1:-}" in
  -h|--help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
  ""|-*) echo "local.sh: give the run's folder first, got '${1:-}';" \
    "see $0 --help" >&2; exit 2 ;;
esac
folder="$1"; shift

case "${DSS_DEVICE:-}" in
  cpu) export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES= ;;
  ?*)  export CUDA_VISIBLE_DEVICES="$DSS_DEVICE" ;;
esac
# TensorFlow, where a data source needs it, must leave the GPU to JAX.
export TF_FORCE_GPU_ALLOW_GROWTH=true

here="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-$here/.venv/bin/python}"
if [ -z "${PYTHON:-}" ] && ! [ -x "$python" ]; then python=python3; fi
# A checkout that is not installed works from any folder too.
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m dss_jax.main train --gin.MODEL_DIR="$folder" "$@"
