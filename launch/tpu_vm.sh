#!/usr/bin/env bash
# Train on a slice of Cloud TPUs: create it, run, look, stop, fetch, delete.
#
#   launch/tpu_vm.sh create                    ask for the slice, and wait for it
#   launch/tpu_vm.sh run RUN [train flags ...] train into the bucket's runs/RUN
#   launch/tpu_vm.sh status                    the slice, and the run on it
#   launch/tpu_vm.sh logs                      follow the log of its first machine
#   launch/tpu_vm.sh stop                      save the step and end the run
#   launch/tpu_vm.sh fetch RUN                 copy the bucket's runs/RUN to runs/RUN
#   launch/tpu_vm.sh delete                    delete the slice, which ends its costs
#
# Before the verb, --dry_run prints the commands that would be called, and calls
# none. Any verb may be called again: what is there already is kept.
#
#   DSS_TPU       name of the slice
#   DSS_ZONE      where it is, such as us-west4-a
#   DSS_TPU_TYPE  accelerator type, such as v5litepod-8, v5p-8 or v6e-8
#   DSS_BUCKET    bucket of the runs, without gs://
#   DSS_SPOT=1    takes capacity that may be taken back at any time; default: 0
#   DSS_RUNTIME   software of the machines; default: Google's for the type
#
# The project is gcloud's: `gcloud config set project ...`. See
# docs/launching/tpu_vm.md.
set -euo pipefail

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }
fail() { echo "tpu_vm.sh: $1" >&2; exit 2; }

dry_run=
if [ "${1:-}" = --dry_run ]; then dry_run=1; shift; fi
verb="${1:-}"
case "$verb" in
  -h|--help) usage; exit 0 ;;
  run|fetch) shift ;;
  create|status|logs|stop|delete)
    shift
    # It could be meant as a --dry_run.
    [ $# = 0 ] || fail "$verb takes no arguments, got '$1'; see $0 --help" ;;
  *) fail "the verb is '$verb'; it must be create, run, status, logs, stop,\
 fetch or delete; see $0 --help" ;;
esac

# Ends unless the variables named are set.
need() {
  local name
  for name in "$@"; do
    [ -n "${!name:-}" ] || fail "$name is not set; see $0 --help"
  done
}

# Takes the run's name from the arguments.
need_run() {
  [[ "${1:-}" =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] ||
    fail "$verb needs the name of a run, of letters, digits and . _ -, got\
 '${1:-}'"
}

# Prints a command, and calls it unless nothing is to be called.
call() {
  if [ -n "$dry_run" ]; then printf '%q ' "$@"; echo; else "$@"; fi
}

on_workers() { # WORKER COMMAND
  call gcloud compute tpus tpu-vm ssh "$DSS_TPU" --zone="$DSS_ZONE" \
    --worker="$1" --command="$2"
}

# Prints the state of the slice: ACTIVE, PROVISIONING, ..., or NONE.
state() {
  local said errors
  errors="$(mktemp)"
  if said="$(gcloud compute tpus queued-resources describe "$DSS_TPU" \
    --zone="$DSS_ZONE" --format='value(state.state)' 2> "$errors")"; then
    echo "$said"
  elif grep -Eqi 'NOT_FOUND|was not found' "$errors"; then
    echo NONE
  else
    cat "$errors" >&2
    rm "$errors"
    return 1
  fi
  rm "$errors"
}

# Waits while `now`, the state of the slice, is one of these. A look that fails,
# perhaps for the network, ends no wait: it may take days.
wait_while() { # STATE ...
  local shown=''
  while [[ " $* " = *" $now "* ]]; do
    if [ "$now" != "$shown" ]; then
      echo "$DSS_TPU is $now; waiting"
      shown="$now"
    fi
    sleep "${DSS_POLL_SECONDS:-30}"
    if ! now="$(state)"; then
      echo "tpu_vm.sh: could not look; waiting on" >&2
      now="$shown"
    fi
  done
}

create() {
  need DSS_TPU DSS_ZONE DSS_TPU_TYPE
  local runtime="${DSS_RUNTIME:-}" now=NONE spot=()
  # Below, an empty list is an error for the bash of macOS.
  case "${DSS_SPOT:-0}" in
    0) ;;
    1) spot=(--spot) ;;
    *) fail "DSS_SPOT is '$DSS_SPOT'; it must be 0 or 1" ;;
  esac
  if [ -z "$runtime" ]; then
    case "$DSS_TPU_TYPE" in
      v[234]-*) runtime=tpu-ubuntu2204-base ;;
      v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
      v5p-*) runtime=v2-alpha-tpuv5 ;;
      v6e-*) runtime=v2-alpha-tpuv6e ;;
      *) fail "DSS_TPU_TYPE is '$DSS_TPU_TYPE', whose software is not known here:\
 set DSS_RUNTIME; gcloud compute tpus tpu-vm versions list --zone=$DSS_ZONE\
 shows what there is" ;;
    esac
  fi
  if [ -z "$dry_run" ]; then
    now="$(state)"
    wait_while SUSPENDING DELETING
  fi
  case "$now" in
    FAILED|SUSPENDED)
      echo "$DSS_TPU is $now: making it anew"
      remove
      now=NONE ;;
  esac
  if [ "$now" = NONE ]; then
    call gcloud compute tpus queued-resources create "$DSS_TPU" \
      --node-id="$DSS_TPU" --zone="$DSS_ZONE" \
      --accelerator-type="$DSS_TPU_TYPE" --runtime-version="$runtime" \
      --scopes=https://www.googleapis.com/auth/cloud-platform \
      ${spot[@]+"${spot[@]}"}
    if [ -n "$dry_run" ]; then return; fi
    now=REQUESTED
  fi
  if [ "$now" != ACTIVE ]; then
    echo "Ctrl-C ends the waiting; only \`$0 delete\` ends the request"
  fi
  wait_while REQUESTED ACCEPTED CREATING PROVISIONING WAITING_FOR_RESOURCES
  case "$now" in
    ACTIVE) echo "$DSS_TPU is ACTIVE: it costs money until \`$0 delete\`" ;;
    NONE|DELETING)
      echo "tpu_vm.sh: $DSS_TPU was deleted meanwhile" >&2
      exit 1 ;;
    *)
      echo "tpu_vm.sh: $DSS_TPU is $now; see gcloud compute tpus\
 queued-resources describe $DSS_TPU --zone=$DSS_ZONE. \`$0 create\` makes it\
 anew" >&2
      exit 1 ;;
  esac
}

# Ends unless the slice can be used.
need_active() {
  need DSS_TPU DSS_ZONE
  if [ -n "$dry_run" ]; then return; fi
  local now
  now="$(state)"
  [ "$now" = ACTIVE ] || fail "$DSS_TPU is $now; \`$0 create\` makes it"
}

run() {
  need DSS_BUCKET
  need_run "$@"
  need_active
  local here archive="dss_jax-source.tar.gz" folder=.
  here="$(cd "$(dirname "$0")/.." && pwd)"
  # What is committed: what runs can then be named.
  if [ -z "$dry_run" ]; then
    folder="$(mktemp -d)"
    # shellcheck disable=SC2064  # the folder as it is now
    trap "rm -r '$folder'" EXIT
  fi
  if [ -z "$dry_run" ] && [ -n "$(git -C "$here" status --porcelain)" ]; then
    echo "tpu_vm.sh: not committed, and so not copied:" >&2
    git -C "$here" status --short >&2
  fi
  call git -C "$here" archive --format=tar.gz --output="$folder/$archive" HEAD
  call gcloud compute tpus tpu-vm scp "$folder/$archive" "$DSS_TPU:" \
    --zone="$DSS_ZONE" --worker=all
  on_workers all "rm -rf dss_jax && mkdir dss_jax && tar -xzf $archive -C dss_jax &&\
 bash dss_jax/launch/tpu_worker.sh $(printf '%q ' "$DSS_BUCKET" "$@")"
  if [ -z "$dry_run" ]; then
    echo "running; \`$0 logs\` follows it, \`$0 stop\` saves and ends it"
  fi
}

status() {
  need DSS_TPU DSS_ZONE
  if [ -z "$dry_run" ]; then
    local now
    now="$(state)"
    echo "$DSS_TPU is $now"
    if [ "$now" != ACTIVE ]; then return; fi
  fi
  on_workers all "systemctl status dss-jax --no-pager --lines=3 || true"
}

remove() {
  call gcloud compute tpus queued-resources delete "$DSS_TPU" \
    --zone="$DSS_ZONE" --force --quiet
}

delete() {
  need DSS_TPU DSS_ZONE
  if [ -z "$dry_run" ]; then
    local now
    now="$(state)"
    wait_while DELETING
    if [ "$now" = NONE ]; then
      echo "there is no $DSS_TPU in $DSS_ZONE"
      return
    fi
  fi
  remove
}

case "$verb" in
  create|run|status|delete) "$verb" "$@" ;;
  logs)
    need_active
    on_workers 0 \
      "sudo journalctl --unit=dss-jax --output=cat --lines=200 --follow" ;;
  stop)
    need_active
    on_workers all "sudo systemctl disable --now dss-jax" ;;
  fetch)
    need DSS_BUCKET
    need_run "$@"
    [ $# = 1 ] || fail "fetch takes the name of a run alone, got '$2' too"
    call mkdir -p "runs/$1"
    call gcloud storage rsync --recursive \
      "gs://$DSS_BUCKET/runs/$1" "runs/$1" ;;
esac
