#!/usr/bin/env bash
# Fuzzes the decoder of updates for SECONDS (default 20), from tests/fuzz/corpus; what is found lies in .weft/fuzz. Before that, a build with
# a planted bug must crash, or the fuzzer would prove nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-20}
work=.weft/fuzz
sources=(
  tests/fuzz/update_decoder_fuzz.cc
  adapters/adapter.cc adapters/encoding.cc adapters/encoding_format.cc adapters/layout.cc adapters/update_checker.cc common/hash.cc common/large_pages.cc
)
protos=(proto/adapter proto/job proto/schema_options)
libraries=(
  -lprotobuf -lcrypto -lisal -labsl_status -labsl_statusor -labsl_strings -labsl_throw_delegate -labsl_cord -labsl_str_format_internal
  -labsl_hash -labsl_raw_hash_set -labsl_synchronization -labsl_time
)

mkdir -p "$work/proto" "$work/corpus"
cp tests/fuzz/corpus/* "$work/corpus/"
# Debian's clang 14 beside bazel's toolchain: libFuzzer needs instrumented objects of its own. The protocol buffers are not what is fuzzed.
objects=()
protoc -I. --cpp_out="$work" "${protos[@]/%/.proto}"
for proto in "${protos[@]}"; do
  clang++-14 -std=c++20 -O1 -I"$work" -c "$work/$proto.pb.cc" -o "$work/$proto.o"
  objects+=("$work/$proto.o")
done
build() {
  clang++-14 -std=c++20 -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I. -I"$work" "${@:2}" "${sources[@]}" \
    "${objects[@]}" "${libraries[@]}" -o "$1"
}
build "$work/planted" -DWEFT_FUZZ_PLANTED_BUG
build "$work/update_decoder_fuzz"

options=(-max_len=4096 -timeout=5 -rss_limit_mb=2048 -seed=1 -print_final_stats=1)
if "$work/planted" "${options[@]}" -max_total_time="$seconds" -artifact_prefix="$work/planted-" "$work/corpus" > "$work/planted.log" 2>&1; then
  echo "fuzz: the planted bug was not found in $seconds s; see $work/planted.log" >&2
  exit 1
fi
if ! "$work/update_decoder_fuzz" "${options[@]}" -max_total_time="$seconds" -artifact_prefix="$work/" "$work/corpus" > "$work/fuzz.log" 2>&1; then
  tail -50 "$work/fuzz.log" >&2
  echo "fuzz: the decoder broke a promise; the input lies in $work" >&2
  exit 1
fi
echo "fuzz: planted bug found; then $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/fuzz.log") inputs in $seconds s without a fault"
