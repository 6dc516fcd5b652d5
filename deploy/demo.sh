#!/usr/bin/env bash
# Fine-tunes a real model across four clients on this machine: one coordinator and four client daemons, five processes
# that talk gRPC on loopback. The last line printed is JSON: rounds, accuracy, seconds, bytes_up, bytes_down, adapter.
#
#   deploy/demo.sh [--keep] [--job FILE] [--work FOLDER]
#
#   --keep    stay until Ctrl-C when the job has ended, so that the page can be looked at
#   --job     another job file than deploy/demo/job.yaml
#   --work    where data, logs, journal and adapter go, instead of .weft/demo
set -euo pipefail
cd "$(dirname "$0")/.."

CLIENTS=4
job=deploy/demo/job.yaml work=.weft/demo keep=0
while (($#)); do
  case "$1" in
    --keep) keep=1 ;;
    --job | --work)
      [[ -n ${2:-} ]] || { echo "demo: $1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift
      ;;
    *) echo "demo: found argument \"$1\", expected --keep, --job or --work" >&2; exit 2 ;;
  esac
  shift
done
say() { echo "demo: $*" >&2; }

deploy/setup.sh
say "building"
bazel build //cli:weft //client:weft-client //server:weft-coordinator
weft=bazel-bin/cli/weft

deploy/demo/prepare.sh "$CLIENTS"

# The same ports every time where they are free, so that a coordinator started again by hand is found.
port() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && echo 0 || echo "$1"; }
mkdir -p "$work/logs"
rm -rf "$work/state" "$work/adapter" "$work/ports"
write_coordinator() {
  cat >"$work/coordinator.yaml" <<Y
listen: 127.0.0.1:$1
page: 127.0.0.1:$2
state_dir: $work/state
ports_file: $work/ports
Y
}
write_coordinator "$(port 7400)" "$(port 7480)"

pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
}
trap cleanup EXIT
trap 'exit 7' INT TERM
last_words() { tail -n 1 "$work/logs/$1.log" >&2; exit 1; }

bazel-bin/server/weft-coordinator --config "$work/coordinator.yaml" 2>"$work/logs/coordinator.log" &
pids+=($!)
echo $! >"$work/coordinator.pid"
until [[ -s $work/ports ]]; do
  kill -0 "${pids[0]}" 2>/dev/null || last_words coordinator
  sleep 0.05
done
read -r grpc page <"$work/ports"
grpc=${grpc#grpc=} page=${page#page=}
write_coordinator "$grpc" "$page"
export WEFT_COORDINATOR=127.0.0.1:$grpc

cores=$(nproc)
for ((i = 1; i <= CLIENTS; i++)); do
  cat >"$work/client-$i.yaml" <<Y
coordinator: $WEFT_COORDINATOR
client_id: client-$i
base: .weft/demo/all-MiniLM-L6-v2
data: .weft/demo/data/client-$i
threads: $((cores > CLIENTS ? cores / CLIENTS : 1))
Y
  bazel-bin/client/weft-client --config "$work/client-$i.yaml" 2>"$work/logs/client-$i.log" &
  pids+=($!)
done
say "coordinator and $CLIENTS clients run; logs in $work/logs"
say "status page: http://127.0.0.1:$page/"

id=$("$weft" submit "$job")
"$weft" watch "$id" >&2
"$weft" export "$id" --which last --out "$work/adapter" >&2
if ((keep)); then
  say "the page stays at http://127.0.0.1:$page/ until Ctrl-C"
  trap 'true' INT
  sleep infinity || true
fi
"$weft" status "$id" --format json | .venv/bin/python -c '
import json, sys
job = json.load(sys.stdin)["jobs"][0]
accuracy = [r["accuracy"] for r in job["rounds"] if r["accuracy"] is not None][-1]
print(json.dumps({"rounds": job["round"], "accuracy": round(accuracy, 4),
                  "seconds": round((job["ended_ms"] - job["started_ms"]) / 1000, 1),
                  "bytes_up": job["bytes_up"], "bytes_down": job["bytes_down"], "adapter": sys.argv[1]}))' "$work/adapter"
