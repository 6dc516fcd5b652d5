#!/usr/bin/env bash
# Fuzzes what reads the bytes of others for SECONDS each (default 20): the decoder of updates, and the readers of files. What is found lies in
# .weft/fuzz. Before that, a build with a planted bug must crash, or the fuzzer would prove nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-20}
work=.weft/fuzz
protos=(proto/adapter proto/job proto/schema_options)
libraries=(
  -lprotobuf -lcrypto -lisal -labsl_status -labsl_statusor -labsl_strings -labsl_throw_delegate -labsl_cord -labsl_str_format_internal
  -labsl_hash -labsl_raw_hash_set -labsl_synchronization -labsl_time
)
# Debian's clang 14 beside bazel's toolchain: libFuzzer needs instrumented objects of its own. The protocol buffers are not what is fuzzed.
flags=(-std=c++20 -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I. "-I$work")

mkdir -p "$work/proto"
protoc -I. --cpp_out="$work" "${protos[@]/%/.proto}"
objects=()
for proto in "${protos[@]}"; do
  clang++-14 -std=c++20 -O1 -I"$work" -c "$work/$proto.pb.cc" -o "$work/$proto.o"
  objects+=("$work/$proto.o")
done

fuzz() {  # name of the target, its corpus, sources...
  local name=$1 corpus=$2 place=$work/targets/$1 own=() source
  shift 2
  mkdir -p "$place" "$work/corpus-$corpus"
  cp tests/fuzz/corpus/"$corpus"/* "$work/corpus-$corpus/"
  for source in "$@"; do own+=("$place/$(tr / - <<<"$source").o"); done
  printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} sh -c 'out=$1/$(echo "$2" | tr / -).o; shift 2; exec clang++-14 "$@" -o "$out"' \
    compile "$place" {} "${flags[@]}" -c {}
  clang++-14 "${flags[@]}" -DWEFT_FUZZ_PLANTED_BUG "tests/fuzz/$name.cc" "${own[@]}" "${objects[@]}" "${libraries[@]}" -o "$place/planted"
  clang++-14 "${flags[@]}" "tests/fuzz/$name.cc" "${own[@]}" "${objects[@]}" "${libraries[@]}" -o "$place/fuzz"
  local options=(-max_len=4096 -timeout=5 -rss_limit_mb=2048 -seed=1 -print_final_stats=1 "-max_total_time=$seconds")
  if "$place/planted" "${options[@]}" -artifact_prefix="$place/planted-" "$work/corpus-$corpus" > "$place/planted.log" 2>&1; then
    echo "fuzz: $name: the planted bug was not found in $seconds s; see $place/planted.log" >&2
    return 1
  fi
  if ! "$place/fuzz" "${options[@]}" -artifact_prefix="$place/" "$work/corpus-$corpus" > "$place/fuzz.log" 2>&1; then
    tail -50 "$place/fuzz.log" >&2
    echo "fuzz: $name: a promise was broken; the input lies in $place" >&2
    return 1
  fi
  echo "fuzz: $name: planted bug found; then $(sed -n 's/^stat::number_of_executed_units: *//p' "$place/fuzz.log") inputs in $seconds s without a fault"
}

fuzz update_decoder_fuzz updates \
  adapters/{adapter,encoding,encoding_format,layout,update_checker}.cc common/{hash,large_pages}.cc
fuzz files_fuzz files \
  adapters/{base,safetensors}.cc adapters/families/{decoder,fields,rotary,transformer_names}.cc \
  adapters/families/{bert/bert,distilbert/distilbert,gpt2/gpt2,llama/llama,mistral/mistral,mlp/mlp,qwen2/qwen2,qwen3/qwen3,roberta/roberta,vit/vit}.cc \
  common/{file,hash}.cc training/data/shard.cc
