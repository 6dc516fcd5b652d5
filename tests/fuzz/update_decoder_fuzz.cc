// A libFuzzer target for what comes from clients: the bytes of an update, in any encoding, for a layout of the fuzzer's
// choice, in pieces of its choice. Whatever they are, they are either refused with INVALID_ARGUMENT or decode to finite
// values that keep every promise of adapters/encoding.h. tests/fuzz/run.sh builds and runs it.
//
// Input: encoding, number of tensors, one byte of size per tensor, size of pieces; then the update.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "adapters/encoding.h"

namespace weft {
namespace {

#define FUZZ_CHECK(condition)                                   \
  do {                                                          \
    if (!(condition)) {                                         \
      std::fprintf(stderr, "broken promise: %s\n", #condition); \
      std::abort();                                             \
    }                                                           \
  } while (false)

// Takes bytes from the front; zeros when there are none left.
uint8_t Take(const uint8_t** data, size_t* size) {
  if (*size == 0) return 0;
  --*size;
  return *(*data)++;
}

void CheckAccepted(const EncodedUpdate& update, const UpdateChecker& checker) {
  FUZZ_CHECK(update.checked());
  FUZZ_CHECK(update.norm() == checker.norm() && update.max_abs() == checker.max_abs());
  FUZZ_CHECK(std::isfinite(update.norm()) && update.max_abs() < kUpdateLimit);
  const Adapter decoded = update.Decode();
  double squares = 0;
  float max_abs = 0;
  for (const float value : decoded.values()) {
    squares += static_cast<double>(value) * value;
    max_abs = std::max(max_abs, std::fabs(value));
  }
  FUZZ_CHECK(max_abs == update.max_abs());
  FUZZ_CHECK(std::fabs(update.norm() - std::sqrt(squares)) <= 1e-9 * update.norm());
#ifdef WEFT_FUZZ_PLANTED_BUG
  // What a decoder would do that trusts the last index of a topk update. No input of the corpus reaches it: the fuzzer
  // must find a valid update that does.
  if (update.encoding() == Encoding::kTopK && update.max_abs() > 0) {
    const std::vector<float> too_small(2);
    uint32_t index = 0;
    std::memcpy(&index, update.bytes().data() + update.bytes().size() - 8, 4);
    FUZZ_CHECK(too_small.data()[index] == 0);
  }
#endif
}

void FuzzOne(const uint8_t* data, size_t size) {
  const auto encoding = static_cast<Encoding>(Take(&data, &size) % 6);
  std::vector<TensorSpec> tensors(1 + Take(&data, &size) % 4);
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i] = {.name = std::to_string(i), .role = "head", .shape = {1 + Take(&data, &size)}};
  }
  const auto layout = *Layout::Create(std::move(tensors));
  const size_t piece = 1 + Take(&data, &size);
  const std::string bytes(reinterpret_cast<const char*>(data), size);

  UpdateChecker checker(layout, encoding);
  absl::Status status;
  for (size_t begin = 0; begin < bytes.size() && status.ok(); begin += piece) {
    const std::string part = bytes.substr(begin, piece);  // a copy, so that reading beyond it is found
    status = checker.Add(std::as_bytes(std::span(part)));
  }
  if (status.ok()) status = checker.Finish();
  FUZZ_CHECK(status.ok() || status.code() == absl::StatusCode::kInvalidArgument);

  const auto whole = EncodedUpdate::FromBytes(layout, encoding, bytes);
  FUZZ_CHECK(whole.ok() == status.ok());
  if (whole.ok()) CheckAccepted(*whole, checker);
}

}  // namespace
}  // namespace weft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  weft::FuzzOne(data, size);
  return 0;
}
