#ifndef WEFT_ADAPTERS_UPDATE_CHECKER_H_
#define WEFT_ADAPTERS_UPDATE_CHECKER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "adapters/encoding_format.h"
#include "adapters/layout.h"

namespace weft {

// Largest magnitude and L2 norm of values that come in pieces. The sums' order depends on the elements' indices alone,
// so that neither the pieces nor the machine change a bit.
class ValueStatistics {
 public:
  // values[i] is element `index` + i.
  void Add(std::span<const float> values, int64_t index);
  double norm() const;
  // NaN or Inf when one was added.
  float max_abs() const;

 private:
  static constexpr int kLanes = 16;
  uint32_t max_bits_ = 0;              // of the magnitude; NaN and Inf have larger patterns than any number
  std::array<double, kLanes> sums_{};  // of squares, of the elements with index % kLanes
};

// Checks an update while its bytes arrive, so that receiving it is one pass. Add every piece in order, then Finish
// once. Any error is INVALID_ARGUMENT, names the tensor and the element, and is final. Memory is bounded by the layout:
// 4 bytes per block or tensor. Not thread-safe.
class UpdateChecker {
 public:
  UpdateChecker(std::shared_ptr<const Layout> layout, Encoding encoding);

  // The pieces may be cut anywhere. Refuses NaN, Inf, a value of magnitude kUpdateLimit or more, a code outside its
  // range, a scale that is negative or not finite, a filled half byte at an odd tensor's end, a count above the
  // tensor's size, an index outside the tensor or not above the one before, and more bytes than the layout has.
  absl::Status Add(std::span<const std::byte> bytes);
  // Refuses missing bytes.
  absl::Status Finish() const;

  const std::shared_ptr<const Layout>& layout_ptr() const { return layout_; }
  Encoding encoding() const { return encoding_; }
  uint64_t received_bytes() const { return received_; }
  // Of the whole update; under topk, only those of which the counts so far tell.
  uint64_t expected_bytes() const;
  // Of the values so far.
  double norm() const { return statistics_.norm(); }
  float max_abs() const { return statistics_.max_abs(); }

 private:
  // Scales or counts; then values, codes or pairs.
  bool in_heads() const { return heads_.size() < num_heads_; }
  int64_t BodyUnitBytes() const;
  // `count` whole units of the part under way, no more than are left in it.
  absl::Status AddUnits(const std::byte* data, int64_t count);
  absl::Status AddHead(uint32_t bits);
  absl::Status AddPlain(const std::byte* data, int64_t count);
  absl::Status AddCodes(const std::byte* data, int64_t count);
  absl::Status AddPairs(const std::byte* data, int64_t count);
  absl::Status AddValues(std::span<const float> values, int64_t index);
  absl::Status BadElement(int64_t index, const std::string& found, const std::string& expected) const;

  std::shared_ptr<const Layout> layout_;
  Encoding encoding_;
  ValueStatistics statistics_;
  uint64_t received_ = 0;
  std::array<std::byte, 8> rest_{};  // of a unit that the last piece has cut
  int64_t rest_bytes_ = 0;
  uint64_t num_heads_ = 0;
  std::vector<uint32_t> heads_;  // the scales' bits (int8, int4) or the counts (topk)
  uint64_t num_units_ = 0;       // after the heads
  uint64_t units_ = 0;           // seen of them
  size_t tensor_ = 0;            // under way, of scales, codes and pairs
  int64_t next_ = 0;             // value of the update (plain), code of the tensor or pair of the tensor
  int64_t first_scale_ = 0;      // of the tensor
  int64_t last_index_ = -1;      // of the pair before
};

}  // namespace weft

#endif  // WEFT_ADAPTERS_UPDATE_CHECKER_H_
