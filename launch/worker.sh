#!/usr/bin/env bash
# One host's part of a training run: launch/worker.sh COMMAND ...
#
# Its output goes to train.log, and is shown. With LOGS=gs://bucket/folder the log is copied there every
# minute, under the host's name. At the end train.status says done, stopped (it was asked to stop before it
# had all its steps) or failed N. The exit status is 0, 75 or N: only 0 says that nothing is left to do.
# While it runs, train.lock is locked and train.pid has the process.
set -u

exec 9>>train.lock
if ! flock --wait 120 9; then
  echo "Another run is under way in $PWD. Wait for it, or end process $(cat train.pid)." >&2
  exit 1
fi
rm -f train.status
touch train.log
from=$(($(wc -c <train.log) + 1))
child=
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
"$@" >>train.log 2>&1 &
child=$!
echo "$child" >train.pid

tail -c "+$from" -f --sleep-interval=0.2 --pid="$child" train.log 9>&- &
shown=$!
copy_log() {
  [ -z "${LOGS:-}" ] || gcloud --quiet storage cp train.log "$LOGS/$(hostname).log" >/dev/null 2>&1
}
while kill -0 "$child" 2>/dev/null; do
  timeout 60 tail -f --sleep-interval=0.2 --pid="$child" /dev/null
  copy_log
done 9>&- &
copied=$!

# A signal to this script ends `wait` before the process has ended.
while kill -0 "$child" 2>/dev/null; do wait "$child"; done
wait "$child"
status=$?
wait "$shown" "$copied"
# A process that saves and leaves when it is asked to ends with 0 too.
if ((status == 0)) && tail -c "+$from" train.log | grep -c "Asked to stop after step" >/dev/null; then
  status=75
fi
case $status in
  0) echo "done" >train.status ;;
  75) echo stopped >train.status ;;
  *) echo "failed $status" >train.status ;;
esac
copy_log
exit "$status"
