// A libFuzzer target for files that come from anyone: safetensors, as bases and adapters are, a split of prepared data,
// and config.json. Whatever their bytes, they are refused with a message, or what is made of them keeps its promises:
// every tensor lies in the file, every row of a split can be read, every module of a base has a size. tests/fuzz/run.sh
// builds and runs it.
//
// Input: one byte that chooses; then, of a split, one byte for the number of labels; then the file. Safetensors without
// the 8 bytes of their header's length: "{...}" and data.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "adapters/safetensors.h"
#include "training/data/shard.h"

namespace weft {
namespace {

#define FUZZ_CHECK(condition)                                   \
  do {                                                          \
    if (!(condition)) {                                         \
      std::fprintf(stderr, "broken promise: %s\n", #condition); \
      std::abort();                                             \
    }                                                           \
  } while (false)

// A file of these bytes that lives in memory.
class MemoryFile {
 public:
  explicit MemoryFile(const std::string& bytes) : descriptor_(memfd_create("fuzz", 0)) {
    FUZZ_CHECK(descriptor_ >= 0);
    FUZZ_CHECK(write(descriptor_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
  ~MemoryFile() { close(descriptor_); }
  std::string path() const { return absl::StrCat("/proc/self/fd/", descriptor_); }

 private:
  const int descriptor_;
};

// Puts the header's length in front, which a fuzzer would hardly ever get right; some inputs go without.
std::string WithLength(const std::string& rest) {
  const size_t end = rest.find('\n');
  if (end == std::string::npos) return rest;
  const uint64_t length = end;
  std::string whole(sizeof(length), '\0');
  std::memcpy(whole.data(), &length, sizeof(length));
  return whole + rest.substr(0, end) + rest.substr(end + 1);
}

uint64_t Sum(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (const std::byte byte : bytes) sum += static_cast<uint64_t>(byte);
  return sum;
}

void FuzzSafetensors(const std::string& bytes) {
  const MemoryFile file(bytes);
  const auto opened = SafetensorsFile::Open(file.path());
  if (!opened.ok()) {
    FUZZ_CHECK(!opened.status().message().empty());
    return;
  }
  uint64_t sum = 0;
  for (const auto& [name, view] : opened->tensors()) {
    uint64_t elements = 1;
    for (const int64_t size : view.shape) elements *= static_cast<uint64_t>(size);
    FUZZ_CHECK(elements * SafetensorsDtypeSize(view.dtype) == view.data.size());
    sum += Sum(view.data);  // reads every byte
  }
  FUZZ_CHECK(sum < UINT64_MAX);
}

void FuzzShard(int64_t labels, const std::string& bytes) {
  const MemoryFile file(bytes);
  const auto opened = DataShard::Open(file.path(), labels);
  if (!opened.ok()) {
    FUZZ_CHECK(!opened.status().message().empty());
    return;
  }
  const DataShard& shard = **opened;
  for (int64_t row = 0; row < shard.rows(); ++row) {
    if (!shard.CheckRow(row).ok()) continue;
    for (const int32_t token : shard.row(row)) FUZZ_CHECK(token >= 0);
    switch (shard.kind()) {
      case RowKind::kPairs:
        FUZZ_CHECK(!shard.row(row).empty() && !shard.partner(row).empty());
        break;
      case RowKind::kLearn:
        FUZZ_CHECK(shard.learn(row).size() == shard.row(row).size());
        break;
      case RowKind::kImages:
        FUZZ_CHECK(Sum(std::as_bytes(shard.pixels(row))) < UINT64_MAX);
        FUZZ_CHECK(static_cast<int64_t>(shard.image_std().size()) == shard.channels());
        break;
      case RowKind::kFeatures:
        FUZZ_CHECK(Sum(std::as_bytes(shard.features(row))) < UINT64_MAX);
        break;
      case RowKind::kText:
        FUZZ_CHECK(!shard.row(row).empty());
        break;
    }
    const bool labelled = shard.kind() != RowKind::kPairs && shard.kind() != RowKind::kLearn;
    FUZZ_CHECK(!labelled || (shard.label(row) >= 0 && shard.label(row) < labels));
#ifdef WEFT_FUZZ_PLANTED_BUG
    // What a reader would do that trusts the first token: no input of the corpus has one that large.
    const std::vector<float> embeddings(64);
    if (!shard.row(row).empty()) FUZZ_CHECK(embeddings.data()[shard.row(row)[0]] == 0);
#endif
  }
}

void FuzzConfig(const std::string& text) {
  const auto base = DescribeBase(text);
  if (!base.ok()) {
    FUZZ_CHECK(base.status().code() == absl::StatusCode::kInvalidArgument && !base.status().message().empty());
    return;
  }
  FUZZ_CHECK(base->hidden_size > 0 && !base->tasks.empty());
  for (const LinearModule& module : base->linears) {
    FUZZ_CHECK(module.out_features > 0 && module.in_features > 0 && !module.name.empty());
  }
  if (!base->transformer.has_value()) return;
  const Transformer& transformer = *base->transformer;
  FUZZ_CHECK(transformer.key_heads > 0 && transformer.heads % transformer.key_heads == 0 && transformer.head_dim > 0);
  for (const TransformerLayer& layer : transformer.layers) {
    for (const int index : {layer.query_key_value, layer.query, layer.key, layer.value, layer.attention_output,
                            layer.gate, layer.up, layer.down}) {
      FUZZ_CHECK(index >= -1 && index < static_cast<int>(base->linears.size()));
    }
  }
}

void FuzzOne(const uint8_t* data, size_t size) {
  if (size < 2) return;
  const std::string rest(reinterpret_cast<const char*>(data) + 2, size - 2);
  switch (data[0] % 3) {
    case 0:
      return FuzzSafetensors(WithLength(rest));
    case 1:
      return FuzzShard(data[1] % 8, WithLength(rest));
    default:
      return FuzzConfig(rest);
  }
}

}  // namespace
}  // namespace weft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  weft::FuzzOne(data, size);
  return 0;
}
