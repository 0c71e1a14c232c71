#!/bin/sh
# Makes the results of protocol.md again, from a checkout's root:
#
#   docs/results/rationales/run.sh FOLDER
#
# FOLDER takes about 350 small runs. Stopped, the same command continues.
set -eu

folder="${1:?give a folder for the runs}"
here=docs/results/rationales
set -- taxonli controls orders plateau families kinds sizes
for sweep in "$@"; do
  dss-jax sweep "$here/$sweep.gin" --output_dir="$folder"
done
for sweep in "$@"; do
  shift
  set -- "$@" "$folder/$sweep"
done
dss-jax report "$@" --output_dir="$here/report"
