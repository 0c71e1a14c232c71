#!/bin/sh
# Makes the results of protocol.md again, from a checkout's root:
#
#   docs/results/rationales/run.sh FOLDER
#
# FOLDER takes some 480 small runs, about three hours of two quiet CPU cores.
# Stopped, the same command continues. Reports go to FOLDER/reports.
set -eu

folder="${1:?give a folder for the runs}"
here=docs/results/rationales
for sweep in taxonli controls orders plateau families kinds sizes afterwards; do
  dss-jax sweep "$here/$sweep.gin" --output_dir="$folder"
done

# A report for each question: runs of one setting with rates of different searches
# do not belong on one curve.
report() {
  name="$1"
  shift
  dss-jax report "$@" --output_dir="$folder/reports/$name"
}
report records "$folder/taxonli" "$folder/sizes"
report orders "$folder/controls" "$folder/orders"
report plateau "$folder/plateau" "$folder/afterwards"
report families "$folder/families" "$folder/kinds"
