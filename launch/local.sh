#!/usr/bin/env bash
# Train on this machine: the CPU, or one GPU where JAX sees one.
#
#   launch/local.sh RUN_FOLDER [any dss-jax train flags ...]
#
#   launch/local.sh runs/taxonli --gin_file=models/taxonli.gin \
#     --gin_file=data/taxonli.gin --gin_file=methods/dss.gin \
#     --gin_file=runs/train.gin
#
# DSS_DEVICE=cpu keeps off the GPU; DSS_DEVICE=0 (1, ...) picks one.
# Restarted with the same folder, the run goes on where it stopped.
set -euo pipefail

if [ $# -lt 1 ] || [ "$1" = "-h" ] || [ "$1" = "--help" ]; then
  sed -n '2,13s/^# \{0,1\}//p' "$0"
  exit $(( $# < 1 ? 2 : 0 ))
fi
folder="$1"; shift

case "${DSS_DEVICE:-}" in
  cpu) export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES= ;;
  ?*)  export CUDA_VISIBLE_DEVICES="$DSS_DEVICE" ;;
esac
# TensorFlow, where a data source needs it, must leave the GPU to JAX.
export TF_FORCE_GPU_ALLOW_GROWTH=true

here="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-python3}"
[ -x "$here/.venv/bin/python" ] && python="$here/.venv/bin/python"
exec "$python" -m dss_jax.main train --gin.MODEL_DIR="$folder" "$@"
