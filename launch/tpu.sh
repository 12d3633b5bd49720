#!/usr/bin/env bash
# Trains a config on a Cloud TPU slice of any size, until the run has all its steps.
#
#   launch/tpu.sh run NAME ZONE CONFIG [--config.field=value ...]
#       asks for a slice, installs this checkout on all its workers, trains, and watches.
#       A slice that was preempted is asked for again; the run goes on from its last checkpoint.
#       Called again it watches what is under way, or continues.
#   launch/tpu.sh logs NAME ZONE [LINES]    the end of every worker's log; +1: all of it
#   launch/tpu.sh down NAME ZONE            gives the slice back
#
# In the environment:
#   ACCELERATOR=v3-8            or v5litepod-16, v4-32, v5p-128, v6e-64 ...
#   WORKDIR=gs://bucket/folder  of the run; slices of several hosts and spot slices need one in a bucket
#   SPOT=1                      a cheaper slice, which may be taken away at any time
#   PROJECT, VERSION            if not gcloud's own project, and the runtime image of the accelerator
#   SETUP='gcloud storage cp -r gs://bucket/CelebA-HQ-img .'
#                               what every worker runs in the checkout after the installation: here data
#   POLL=30                     seconds from one look at the slice to the next
#   RESTARTS=3                  how often a run that failed on a healthy slice is started again
#   DRY_RUN=1                   prints the commands, quoted, and runs none
#
# Wants gcloud. docs/distributed.md says more.
set -euo pipefail

fail() {
  echo "$*" >&2
  exit 1
}

[ $# -ge 3 ] || {
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exit 2
}
verb=$1 name=$2 zone=$3
shift 3
root=$(cd "$(dirname "$0")/.." && pwd)
spot=${SPOT:-} poll=${POLL:-30} dry=${DRY_RUN:-}
spot=${spot#0} dry=${dry#0}
gcloud=(gcloud --quiet)
[ -z "${PROJECT:-}" ] || gcloud+=("--project=$PROJECT")
queue=("${gcloud[@]}" compute tpus queued-resources)
node=("${gcloud[@]}" compute tpus tpu-vm)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# What a dry run finds, look for look: a spot slice is preempted once.
played=(NONE ACTIVE READY fresh)
[ -z "$spot" ] || played+=(SUSPENDED NONE ACTIVE READY fresh)
played+=(ACTIVE READY "done")

# Runs a command; a dry run prints it.
act() {
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@" </dev/null
  fi
}

# Sets answer to what a command says: NONE if there is no such thing, UNKNOWN if it says nothing.
query() {
  if [ -n "$dry" ]; then
    act "$@"
    answer=${played[0]}
    played=("${played[@]:1}")
  elif ! answer=$("$@" </dev/null 2>"$scratch/errors") && [ -z "$answer" ]; then
    answer=UNKNOWN
    if grep -q NOT_FOUND "$scratch/errors"; then answer=NONE; else tail -n 3 "$scratch/errors" >&2; fi
  fi
}

on_all() { act "${node[@]}" ssh "$name" --zone="$zone" --worker=all --command="$1"; }

give_back() { act "${queue[@]}" delete "$name" --zone="$zone" --force; }

# Says what is new, with the time.
told=
tell() {
  [ "$*" = "$told" ] || echo "$(date +%H:%M:%S) $*" >&2
  told=$*
}

show_logs() {
  on_all "tail -n $1 smyrf/train.log | tr '\\r' '\\n' | sed \"s/^/\$(hostname): /\""
}

case $verb in
  logs)
    [[ ${1:-50} =~ ^\+?[0-9]+$ ]] || fail "LINES should be a number, or +1 for all, but is '$1'."
    show_logs "${1:-50}"
    exit
    ;;
  down)
    give_back
    exit
    ;;
  run) ;;
  *) fail "$verb should be run, logs or down." ;;
esac

accelerator=${ACCELERATOR:-v3-8}
[[ $accelerator =~ ^(v2|v3|v4|v5p|v5litepod|v6e)-([0-9]+)$ ]] ||
  fail "ACCELERATOR=$accelerator should be as v3-8, v4-32, v5litepod-16, v5p-128 or v6e-64."
size=${BASH_REMATCH[2]} cores=8 version=tpu-ubuntu2204-base
case ${BASH_REMATCH[1]} in
  v5litepod) cores=4 version=v2-alpha-tpuv5-lite ;;
  v6e) cores=4 version=v2-alpha-tpuv6e ;;
  v5p) version=v2-alpha-tpuv5 ;;
esac
version=${VERSION:-$version}
# The number counts cores, of chips with two, or chips; one host has up to 8, several have 8 or 4 each.
hosts=$((size > 8 ? size / cores : 1))

[ $# -ge 1 ] || fail "Which config? launch/tpu.sh run $name $zone configs/celeba128_smyrf.py"
config=$1 workdir=${WORKDIR:-}
shift
[ -e "$root/${config%%:*}" ] || fail "There is no config ${config%%:*} in $root."
for flag in "$@"; do
  [[ $flag != --workdir* ]] || fail "Say WORKDIR=... in the environment instead of $flag."
done
if [[ $workdir != gs://* ]] && { [ "$hosts" -gt 1 ] || [ -n "$spot" ]; }; then
  fail "Say WORKDIR=gs://bucket/folder: $accelerator${spot:+, spot,} has $hosts host(s), and all of them," \
    "those of a later slice too, should see the run's folder. WORKDIR is '$workdir'."
fi
command=(.venv/bin/python -m biggan.train "--config=$config" "$@")
[ -z "$workdir" ] || command+=("--workdir=$workdir")
logs=
[[ $workdir != gs://* ]] || logs=${workdir%/}/logs

ask() {
  tell "Asking for $name, a $accelerator of $hosts host(s)."
  act "${queue[@]}" create "$name" --node-id="$name" --zone="$zone" --accelerator-type="$accelerator" \
    --runtime-version="$version" ${spot:+--spot}
}

# Sets slice: NONE, WAITING, ACTIVE, LOST or UNKNOWN; found: what gcloud calls it.
look() {
  query "${queue[@]}" describe "$name" --zone="$zone" --format='value(state.state)'
  found=$answer
  case $found in
    NONE | UNKNOWN) slice=$found ;;
    SUSPENDED | FAILED) slice=LOST ;;
    ACTIVE)
      query "${node[@]}" describe "$name" --zone="$zone" --format='value(state)'
      found=$answer
      case $found in
        READY) slice=ACTIVE ;;
        PREEMPTED | TERMINATED | STOPPED | NONE) slice=LOST ;;
        UNKNOWN) slice=UNKNOWN ;;
        *) slice=WAITING ;;
      esac
      ;;
    *) slice=WAITING ;;
  esac
}

# Sets workers, how the run stands on all of them: fresh (never started), running, done, ended (not done),
# mixed (on some it runs), or unknown (some do not answer).
look_at_workers() {
  # shellcheck disable=SC2016
  query "${node[@]}" ssh "$name" --zone="$zone" --worker=all --command='
    cd smyrf 2>/dev/null || { echo "is fresh"; exit; }
    if [ -e train.lock ] && ! flock --nonblock train.lock true; then echo "is running"
    elif [ -e train.status ]; then echo "is $(cat train.status)"
    elif [ -e train.pid ]; then echo "is gone"
    else echo "is fresh"; fi'
  workers=$answer
  [ -z "$dry" ] || return 0
  local known running
  known=$(grep -c '^is ' <<<"$answer" || true)
  running=$(grep -c '^is running' <<<"$answer" || true)
  if ((known < hosts)); then
    workers=unknown
  elif ((running > 0)); then
    workers=$([ "$running" -eq "$hosts" ] && echo running || echo mixed)
  else
    case $(grep '^is ' <<<"$answer" | sort -u) in
      "is fresh") workers=fresh ;;
      "is done") workers="done" ;;
      *) workers=ended ;;
    esac
  fi
}

# shellcheck disable=SC2016  # it is for the workers to expand
install() {
  tell "Installing on $hosts host(s)."
  [ -n "$dry" ] || git -C "$root" diff --quiet HEAD || echo "Uncommitted changes are not copied." >&2
  act git -C "$root" archive --format=tar.gz --output="$scratch/smyrf.tar.gz" HEAD &&
    act "${node[@]}" scp "$scratch/smyrf.tar.gz" "$name":smyrf.tar.gz --zone="$zone" --worker=all &&
    on_all 'set -e
mkdir -p smyrf && tar -xzf smyrf.tar.gz -C smyrf && cd smyrf
apt="sudo apt-get -o DPkg::Lock::Timeout=600"
command -v python3.11 >/dev/null || { $apt update -q && $apt install -qy python3.11-venv; }
test -x .venv/bin/python || python3.11 -m venv .venv
.venv/bin/python -m pip install --quiet --editable ".[train,data,tpu]"' &&
    { [ -z "${SETUP:-}" ] || on_all "cd smyrf && $SETUP"; }
}

# Starts training on all workers at once. What a broken run left on some of them is ended first.
start() {
  local quoted
  quoted=$(printf ' %q' "${command[@]}")
  on_all "cd smyrf || exit 1
flock --nonblock train.lock true || kill -KILL \"\$(cat train.pid)\"
rm -f train.status
LOGS=$(printf %q "$logs") setsid nohup launch/worker.sh$quoted </dev/null >/dev/null 2>&1 &
until [ -e train.status ] || ! flock --nonblock train.lock true; do sleep 0.1; done" &&
    tell "Training. Logs: launch/tpu.sh logs $name $zone${logs:+, and $logs}"
}

# ours: the run was seen to run, so that what has ended is its end. failures: since it last ran for long.
ours='' asked='' failures=0 steady=0 mixed=0
failed() {
  ((++failures <= ${RESTARTS:-3})) && return
  show_logs 30 || true
  fail "The run failed $failures times on a slice that is READY: see the logs above." \
    "Then: launch/tpu.sh run again, or down $name $zone."
}
while true; do
  look
  case $slice in
    NONE)
      ours='' failures=0
      if ask; then
        asked=1
      else
        [ -n "$asked" ] || fail "The request was refused: see above."
        tell "The request was refused: see above. It is tried again in $poll s."
      fi
      ;;
    LOST)
      [ -n "$spot" ] || fail "The slice is $found. launch/tpu.sh down $name $zone, then run again."
      tell "The slice is $found: it is given back, and asked for again."
      give_back || true
      ;;
    ACTIVE)
      look_at_workers
      if [ "$workers" = running ]; then
        tell "The run is under way on $hosts host(s)."
        ours=1 mixed=0
        if ((++steady > 20)); then failures=0; fi
      elif [ "$workers" = unknown ]; then
        tell "Not all of the $hosts host(s) answer."
      elif [ "$workers" = mixed ] && ((++mixed < 10)); then
        tell "The run has ended on some hosts; the others end within a minute or so."
      elif [ -z "$ours" ] || [ "$workers" = fresh ]; then
        steady=0 mixed=0
        if install && start; then ours=1; else failed; fi
      elif [ "$workers" = "done" ]; then
        tell "The run has its steps. The slice costs on until: launch/tpu.sh down $name $zone"
        exit 0
      else
        failed
        steady=0 mixed=0
        tell "The run ended before it had its steps (restart $failures): starting it again."
        start || true
      fi
      ;;
    *) tell "Waiting for the slice: $found." ;;
  esac
  [ -n "$dry" ] || sleep "$poll"
done
