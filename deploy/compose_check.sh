#!/usr/bin/env bash
# Runs the demo in containers end to end (deploy/compose.yaml, a project of its own that is removed afterwards) and
# checks what came out. Prints one line per check and last "compose_check: ok"; the first failure ends it with 1.
#
#   deploy/compose_check.sh [--rounds N] [--accuracy X]     a shorter job, and what it must reach (as the demo: 10, 0.55)
#
# Takes Docker with its compose plugin, else podman with podman-compose. Needs what deploy/demo.sh needs, for the data.
# PIP_CERT: certificates the image build's downloads are checked with. WEFT_PAGE_PORT: port of the page (17480).
set -euo pipefail
cd "$(dirname "$0")/.."

CLIENTS=4 rounds=10 accuracy=0.55
while (($#)); do
  case "$1" in
    --rounds | --accuracy)
      [[ -n ${2:-} ]] || { echo "compose_check: $1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift
      ;;
    *) echo "compose_check: found argument \"$1\", expected --rounds or --accuracy" >&2; exit 2 ;;
  esac
  shift
done
say() { echo "compose_check: $*" >&2; }
fail() { say "FAILED: $*"; exit 1; }
ok() { echo "ok  $*"; }

if docker compose version >/dev/null 2>&1; then
  engine=docker compose=(docker compose)
elif command -v podman >/dev/null && command -v podman-compose >/dev/null; then
  engine=podman compose=(podman-compose)
  export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot} # also works inside a container
else
  say "found neither \"docker compose\" nor podman with podman-compose; install one of them"
  exit 2
fi

project=weft-check-$$
export WEFT_PAGE_PORT=${WEFT_PAGE_PORT:-17480}
work=$(mktemp -d)
export WEFT_OUT=$work/out
trap 'rm -rf "$work"' EXIT
trap 'exit 7' INT TERM
install -d -m 777 "$WEFT_OUT" # written by the container's user
chmod 755 "$work"
compose+=(-p "$project" -f deploy/compose.yaml)
cleanup() {
  "${compose[@]}" down --volumes >"$work/down.log" 2>&1 || cat "$work/down.log" >&2
  "$engine" network rm "${project}_default" >/dev/null 2>&1 || true # podman-compose leaves it
  rm -rf "$work"
}

container() {
  "$engine" ps --all --quiet --filter "label=com.docker.compose.project=$project" \
    --filter "label=com.docker.compose.service=$1"
}
weft() { "$engine" exec "$(container coordinator)" weft "$@"; }

build_images() {
  local secret=() target
  [[ -z ${PIP_CERT:-} ]] || secret=(--secret "id=ca,src=$PIP_CERT")
  for target in coordinator client; do
    say "building weft-$target"
    "$engine" build "${secret[@]}" -f deploy/Dockerfile --target $target -t weft-$target . >"$work/build.log" 2>&1 ||
      { tail -n 30 "$work/build.log" >&2; fail "weft-$target does not build"; }
    ok "weft-$target builds: $(($("$engine" image inspect --format '{{.Size}}' weft-$target) / 1000000)) MB"
  done
}

# What the images hold, looked at from inside. (libstdc++6 brings helpers for debuggers in a folder called python.)
check_images() {
  local image found
  found=$("$engine" run --rm --user 0 --entrypoint find weft-coordinator / -xdev \( -path /proc -o -path /sys \) -prune -o \
    \( -iname "*torch*" -o -name "libc10*" -o -iname "*cuda*" -o -name "libcu[a-z]*.so*" -o -name "libnv*.so*" \
    -o -name "python*" -o -name "libpython*" -o -name "site-packages" \) ! -path "/usr/share/gcc/python" -print)
  [[ -z $found ]] || fail "weft-coordinator holds $found; expected no LibTorch, CUDA or Python"
  # The same look must find LibTorch where it is, or it proves nothing.
  "$engine" run --rm --user 0 --entrypoint find weft-client / -xdev -name "libtorch_cpu.so" | grep -q . ||
    fail "no libtorch_cpu.so was found in weft-client"
  ok "weft-coordinator holds no LibTorch, CUDA or Python"
  for image in weft-coordinator weft-client; do
    [[ $("$engine" run --rm --entrypoint id "$image" -u) == 10001 ]] || fail "$image does not run as user 10001"
    "$engine" run --rm "$image" --version >/dev/null || fail "the daemon of $image does not start"
  done
  ok "both images run as user 10001 and their daemons start"
}

wait_for_page() {
  local deadline=$((SECONDS + 60))
  until curl --silent --fail --output "$work/page.html" "http://127.0.0.1:$WEFT_PAGE_PORT/"; do
    ((SECONDS < deadline)) || { "$engine" logs "$(container coordinator)" >&2; fail "no page within 60 s"; }
    sleep 0.2
  done
  grep -qi "<html" "$work/page.html" || fail "the page is not HTML"
}

wait_for_clients() {
  local deadline=$((SECONDS + 60)) connected
  while true; do
    connected=$(weft status --format json | .venv/bin/python -c '
import json, sys
print(sum(client["connected"] for client in json.load(sys.stdin)["clients"]))')
    ((connected < CLIENTS)) || break
    ((SECONDS < deadline)) || fail "$connected clients are connected after 60 s, expected $CLIENTS"
    sleep 0.2
  done
  ok "$CLIENTS clients are connected"
}

check_reach() {
  local ports address
  ports=$("$engine" port "$(container coordinator)")
  [[ $ports == "7480/tcp -> 127.0.0.1:$WEFT_PAGE_PORT" ]] || fail "published: \"$ports\", expected the page on 127.0.0.1"
  for address in $(hostname -I); do
    [[ $address != *:* ]] || address="[$address]"
    ! curl --silent --max-time 2 --output /dev/null "http://$address:$WEFT_PAGE_PORT/" ||
      fail "the page answers on $address"
  done
  ok "the page answers on 127.0.0.1:$WEFT_PAGE_PORT, not on $(hostname -I | xargs); nothing else is published"
}

check_containers() {
  local service uid writable expected
  for service in coordinator $(seq -f "client-%g" $CLIENTS); do
    uid=$("$engine" exec "$(container "$service")" awk '$1 == "Uid:" {print $2}' /proc/1/status) ||
      { "$engine" logs "$(container "$service")" >&2; fail "$service does not run"; }
    [[ $uid == 10001 ]] || fail "$service runs as user $uid, expected 10001"
    writable=$("$engine" inspect --format '{{range .Mounts}}{{if .RW}}{{.Destination}} {{end}}{{end}}' \
      "$(container "$service")" | xargs -n 1 | sort | xargs)
    [[ $service == coordinator ]] && expected="/out /var/lib/weft" || expected=""
    [[ $writable == "$expected" ]] || fail "$service may write to \"$writable\", expected \"$expected\""
  done
  ok "all daemons run as user 10001; base and data are mounted read-only"
}

# Checks the finished job's status (JSON on stdin) and prints what it came to.
check_job() {
  .venv/bin/python -c '
import json, sys
rounds, least, clients = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
job = json.load(sys.stdin)["jobs"][0]
assert job["state"] == "finished", job["state"]
assert job["round"] == rounds and len(job["rounds"]) == rounds, job["round"]
assert [r["updates"] for r in job["rounds"]] == [clients] * rounds, [r["updates"] for r in job["rounds"]]
accuracy = job["rounds"][-1]["accuracy"]
assert accuracy is not None and accuracy >= least, accuracy
seconds = (job["ended_ms"] - job["started_ms"]) / 1000
print(f"{rounds} rounds of {clients} updates in {seconds:.0f} s, accuracy {accuracy:.4f} (at least {least})")
' "$rounds" "$accuracy" "$CLIENTS"
}

run_job() {
  local id result
  id=$(weft submit job.yaml --set "stop.rounds=$rounds") || fail "the job was refused"
  weft watch "$id" >&2 || fail "the job ended with code $?"
  result=$(weft status "$id" --format json | check_job) || fail "the job's status is not as expected"
  ok "$result"
  weft export "$id" --which last --out /out/adapter >&2 || fail "no export"
  for file in adapter_config.json adapter_model.safetensors; do
    [[ -s $WEFT_OUT/adapter/$file ]] || fail "the export has no $file"
  done
  ok "the adapter was exported to a folder of this machine: $(stat -c %s "$WEFT_OUT/adapter/adapter_model.safetensors") bytes"
}

check_stop() {
  local service code
  for service in $(seq -f "client-%g" $CLIENTS) coordinator; do
    "$engine" stop -t 10 "$(container "$service")" >/dev/null
    code=$("$engine" inspect --format '{{.State.ExitCode}}' "$(container "$service")")
    [[ $code == 0 ]] || fail "$service ended with code $code after SIGTERM, expected 0"
  done
  ok "all daemons end with code 0 on SIGTERM"
}

deploy/setup.sh
bazel build //cli:weft # prepares the data
deploy/demo/prepare.sh $CLIENTS
WEFT_BASE=$(realpath .weft/demo/all-MiniLM-L6-v2)
export WEFT_BASE
build_images
check_images
trap cleanup EXIT
"${compose[@]}" up --detach --no-build >"$work/up.log" 2>&1 || { cat "$work/up.log" >&2; fail "the containers don't start"; }
wait_for_page
check_reach
wait_for_clients
check_containers
run_job
check_stop
echo "compose_check: ok"
