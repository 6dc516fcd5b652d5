#ifndef WEFT_AGGREGATORS_CORE_EXACT_SUM_H_
#define WEFT_AGGREGATORS_CORE_EXACT_SUM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"

namespace weft::aggregators {

// The weighted sum of adapters of one layout, with the same bits in any order of additions and merges.
//
// Each element is a signed 128-bit integer that counts units of 2^-64. value * weight is added exactly when the value
// is a multiple of 2^-64, as every fp32 of magnitude 2^-41 or more is; a smaller one is rounded to the nearest unit
// (ties to even) by itself, before it meets any other. Integer addition has no order. With |value| < 2^24 and a total
// weight below 2^38, sums stay below 2^126.
//
// Mean() rounds the exact quotient once, to nearest even: so the mean of one adapter is that adapter, bit for bit,
// where its values are multiples of 2^-64 (-0.0 comes back as 0.0), and within 2^-65 elsewhere.
//
// 16 bytes per element. Movable. Not thread-safe: give each thread a sum of its own and Merge.
class ExactSum {
 public:
  static constexpr float kValueLimit = 16777216.0f;  // 2^24, exclusive
  static constexpr uint64_t kMaxTotalWeight = (uint64_t{1} << 38) - 1;

  explicit ExactSum(std::shared_ptr<const Layout> layout);

  // INVALID_ARGUMENT: another layout, a NaN, Inf or value of magnitude kValueLimit or more (names the tensor), a weight
  // of 0, or one that takes the total over kMaxTotalWeight.
  absl::Status Check(const Adapter& adapter, uint64_t weight) const;
  // Checks and adds. On error nothing has changed.
  absl::Status Add(const Adapter& adapter, uint64_t weight);
  // Adds what Check has accepted since the last change; nothing is checked twice.
  void AddChecked(const Adapter& adapter, uint64_t weight);
  // Adds the other's sum. INVALID_ARGUMENT: another layout, or the total weight would pass kMaxTotalWeight. On error
  // nothing has changed.
  absl::Status Merge(const ExactSum& other);
  // The sum over the total weight. FAILED_PRECONDITION when nothing was added.
  absl::StatusOr<Adapter> Mean() const;

  // Header (magic, hashes of `binding` and layout, counts), elements, SHA-256 over all before it; little-endian.
  // `binding` is everything a restart must agree on: rule, config, round.
  std::string Save(std::string_view binding) const;
  // Replaces the sum. DATA_LOSS when the bytes are damaged or of another binding or layout; then nothing has changed.
  absl::Status Restore(std::string_view binding, std::string_view state);

  // Adapters added so far, and their weights together.
  int64_t updates() const { return updates_; }
  uint64_t total_weight() const { return total_weight_; }

 private:
  std::shared_ptr<const Layout> layout_;
  std::vector<__int128> sums_;  // in units of 2^-64, in layout order
  uint64_t total_weight_ = 0;
  int64_t updates_ = 0;
};

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_EXACT_SUM_H_
