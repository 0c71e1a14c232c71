#!/usr/bin/env bash
# What `tpu_vm.sh run` calls on each machine of a slice, in the checkout there:
#
#   tpu_worker.sh BUCKET RUN [any dss-jax train flags ...]
#
# It installs dss_jax, mounts the bucket at /mnt/dss, and makes the run a service
# of the system: it outlives the connection, is told to stop (SIGTERM) before
# the machine is taken away, and is started again when it may work again, be it
# after the machine has rebooted.
set -euo pipefail

bucket="$1" run="$2"; shift 2
here="$(cd "$(dirname "$0")/.." && pwd)"
environment="$HOME/dss_jax-environment"
units=/etc/systemd/system

command="$(printf '%q ' exec "$environment/bin/dss-jax" train --multiprocess \
  "--gin.MODEL_DIR=/mnt/dss/runs/$run" "$@")"
case "$(systemctl is-active dss-jax || true)" in
  active|activating|reloading|deactivating)
    if [ "$command" = "$(tail -n 1 "$HOME/dss_jax-run.sh")" ]; then
      echo "the run is going on already"
      exit 0
    fi
    echo "another run is going on here: stop it first, or let it end" >&2
    exit 1 ;;
esac

if ! command -v gcsfuse > /dev/null; then
  key=/usr/share/keyrings/cloud.google.asc
  packages=https://packages.cloud.google.com/apt
  curl --fail --silent --show-error "$packages/doc/apt-key.gpg" |
    sudo tee "$key" > /dev/null
  echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
  # The locks are held for a while after the machine has started; the first one
  # has no timeout.
  for _ in {1..10}; do
    if sudo apt-get --quiet update; then break; fi
    sleep 30
  done
  sudo apt-get --quiet --yes -o DPkg::Lock::Timeout=300 install gcsfuse
fi

# The system's Python is older than dss_jax needs.
if ! [ -x "$HOME/.local/bin/uv" ]; then
  curl --fail --silent --show-error --location https://astral.sh/uv/install.sh |
    sh
fi
uv="$HOME/.local/bin/uv"
[ -x "$environment/bin/python" ] || "$uv" venv --python 3.12 "$environment"
# A run that continues on other machines finds the same versions there.
"$uv" pip install --quiet --python "$environment/bin/python" \
  --constraint "$here/requirements/locked.txt" \
  --reinstall-package dss_jax "${here}[tpu]"

[ -d /mnt/dss ] || sudo install --directory --owner="$(id -un)" /mnt/dss
printf '#!/usr/bin/env bash\n%s\n' "$command" > "$HOME/dss_jax-run.sh"

# Files are written whole when they are closed or synchronised, so that what a
# killed run has measured is there.
sudo tee "$units/dss-bucket.service" > /dev/null << UNIT
[Unit]
Description=the bucket $bucket
Wants=network-online.target
After=network-online.target

[Service]
Type=forking
User=$(id -un)
ExecStart=$(command -v gcsfuse) --implicit-dirs --enable-streaming-writes=false $bucket /mnt/dss
ExecStop=/bin/fusermount -u /mnt/dss
UNIT
sudo tee "$units/dss-jax.service" > /dev/null << UNIT
[Unit]
Description=dss-jax train, run $run
Requires=dss-bucket.service
After=dss-bucket.service
StartLimitIntervalSec=3600
StartLimitBurst=10

[Service]
User=$(id -un)
WorkingDirectory=$HOME
Environment=DSS_DATA_DIR=/mnt/dss/data
ExecStart=/bin/bash $HOME/dss_jax-run.sh
# Statuses after which the same would fail again: docs/launching/README.md.
Restart=on-failure
RestartPreventExitStatus=1 2 3
RestartSec=30
KillMode=mixed
TimeoutStopSec=300

[Install]
WantedBy=multi-user.target
UNIT
sudo systemctl daemon-reload
if ! sudo systemctl restart dss-bucket; then
  echo "the bucket $bucket cannot be mounted:" >&2
  sudo journalctl --unit=dss-bucket --output=cat --lines=20 >&2
  exit 1
fi
sudo systemctl reset-failed dss-jax 2> /dev/null || true
sudo systemctl enable --quiet --now dss-jax
