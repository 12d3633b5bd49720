#!/usr/bin/env bash
# Trains a config on a Cloud TPU VM, and continues the run when it is called again.
#
#   launch/tpu_vm.sh NAME ZONE configs/celeba128_smyrf.py --config.data.path=/mnt/disks/celeba128 ...
#
# Makes a v3-8 (ACCELERATOR, VERSION: others) unless one of that name exists, copies this checkout to it,
# installs, and trains in a tmux session that outlives the connection. Wants gcloud with a project set.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; fi
name=$1 zone=$2 config=$3
shift 3
accelerator=${ACCELERATOR:-v3-8}
version=${VERSION:-tpu-ubuntu2204-base}
tpu=(gcloud compute tpus tpu-vm)

"${tpu[@]}" describe "$name" --zone="$zone" >/dev/null 2>&1 ||
  "${tpu[@]}" create "$name" --zone="$zone" --accelerator-type="$accelerator" --version="$version"

bundle=$(mktemp)
trap 'rm -f "$bundle"' EXIT
git -C "$(dirname "$0")/.." archive --format=tar.gz HEAD >"$bundle"
"${tpu[@]}" scp "$bundle" "$name":smyrf.tar.gz --zone="$zone"

flags=""
for flag in "$@"; do flags+=" $(printf '%q' "$flag")"; done
"${tpu[@]}" ssh "$name" --zone="$zone" --command="
  set -e
  mkdir -p smyrf && tar -xzf smyrf.tar.gz -C smyrf && cd smyrf
  command -v python3.11 >/dev/null || { sudo apt-get update -q && sudo apt-get install -qy python3.11-venv; }
  test -x .venv/bin/python || python3.11 -m venv .venv
  .venv/bin/python -m pip install --quiet --editable '.[train,data,tpu]'
  tmux has-session -t train 2>/dev/null && { echo 'A run is under way: tmux attach -t train'; exit 0; }
  tmux new-session -d -s train \".venv/bin/python -m biggan.train --config=$config$flags 2>&1 | tee -a train.log\"
  echo 'Started. Watch it: tail -f smyrf/train.log'
"
