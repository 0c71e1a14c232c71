#!/usr/bin/env bash
# Train on this machine: the CPU, or all GPUs that JAX sees.
#
#   launch/local.sh RUN_FOLDER [any dss-jax train flags ...]
#
#   launch/local.sh runs/taxonli --gin_file=models/taxonli.gin \
#     --gin_file=runs/taxonli.gin --gin_file=data/taxonli.gin \
#     --gin_file=methods/dss.gin --gin.TRAIN_STEPS=1200
#
# DSS_DEVICE=cpu keeps off the GPUs; DSS_DEVICE=0 or 0,1 picks some.
# DSS_PROCESSES=N trains in N processes, as on N machines, to try that out: each
# takes one of the GPUs, or a share of the CPU. One process is enough for all.
# PYTHON is the interpreter: by default the checkout's .venv, else python3.
# Restarted with the same folder, the run resumes where it stopped.
set -euo pipefail

case "${1:-}" in
  -h|--help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
  ""|-*) echo "local.sh: give the run's folder first, got '${1:-}';" \
    "see $0 --help" >&2; exit 2 ;;
esac
folder="$1"; shift
processes="${DSS_PROCESSES:-1}"
if ! [[ "$processes" =~ ^[1-9][0-9]?$ ]]; then
  echo "local.sh: DSS_PROCESSES is '$processes'; it must be from 1 to 99" >&2
  exit 2
fi

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
train=("$python" -m dss_jax.main train "--gin.MODEL_DIR=$folder" "$@")
if [ "$processes" = 1 ]; then exec "${train[@]}"; fi

port="$("$python" -c '
import socket
with socket.socket() as probe:
  probe.bind(("127.0.0.1", 0))
  print(probe.getsockname()[1])
')"
IFS=, read -ra gpus <<< "${CUDA_VISIBLE_DEVICES:-}"
if [ "${#gpus[@]}" -gt 0 ] && [ "${#gpus[@]}" -lt "$processes" ]; then
  echo "local.sh: $processes processes want a GPU each, and there are" \
    "${#gpus[@]}: $CUDA_VISIBLE_DEVICES" >&2
  exit 2
fi
pids=()
trap 'kill -TERM "${pids[@]}" 2> /dev/null || true' TERM
trap 'kill -INT "${pids[@]}" 2> /dev/null || true' INT
# Each gets its own group: the terminal's Ctrl-C comes to this script alone, and
# from here to each of them once.
set -m
for ((i = 0; i < processes; i++)); do
  if [ "${DSS_DEVICE:-}" != cpu ]; then
    export CUDA_VISIBLE_DEVICES="${gpus[i]:-$i}"
  fi
  "${train[@]}" --coordinator_address="127.0.0.1:$port" \
    --process_count="$processes" --process_index="$i" &
  pids+=($!)
done

# Of several statuses, one that says what is wrong (1 to 3) comes before those that
# ask for another start.
rank() { if [ "$1" -gt 0 ] && [ "$1" -lt 64 ]; then echo $((256 + $1)); else echo "$1"; fi }

# A signal ends `wait`, not the processes.
status=0
for pid in "${pids[@]}"; do
  while true; do
    ended=0
    wait "$pid" || ended=$?
    kill -0 "$pid" 2> /dev/null || break
  done
  if [ "$(rank "$ended")" -gt "$(rank "$status")" ]; then status="$ended"; fi
done
exit "$status"
