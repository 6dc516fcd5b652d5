#ifndef WEFT_AGGREGATORS_CORE_EXACT_SUM_H_
#define WEFT_AGGREGATORS_CORE_EXACT_SUM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/encoding.h"

namespace weft::aggregators {

// The weighted sum of updates of one layout, with the same bits in any order of additions, merges and threads, on every
// SIMD target.
//
// Each element is an integer that counts units of 2^-64, in two limbs: hi * 2^-8 + lo * 2^-64, lo in [-2^55, 2^55).
// value * weight is added exactly when it is a multiple of 2^-64, as it is for every fp32 of magnitude 2^-41 or more; a
// smaller product is rounded to the nearest unit (ties to even) by itself, before it meets any other. Integer addition
// has no order. |value| < 2^16, a weight below 2^29 and a total weight below 2^38 keep |hi| below 2^62.
//
// Mean() rounds the exact quotient once, to nearest even: so the mean of one update is that update, bit for bit, where
// its values are multiples of 2^-64 (-0.0 comes back as 0.0), and within 2^-65 elsewhere.
//
// 16 bytes per element. Movable. Not thread-safe: give each thread a sum of its own and Merge.
class ExactSum {
 public:
  static constexpr float kValueLimit = kUpdateLimit;  // 2^16, exclusive
  static constexpr uint64_t kMaxWeight = (uint64_t{1} << 29) - 1;
  static constexpr uint64_t kMaxTotalWeight = (uint64_t{1} << 38) - 1;

  explicit ExactSum(std::shared_ptr<const Layout> layout);

  // INVALID_ARGUMENT: another layout, a weight of 0 or over kMaxWeight, or one that takes the total over
  // kMaxTotalWeight; values of a View that are NaN, Inf or of magnitude kValueLimit or more (names the tensor).
  absl::Status Check(const EncodedUpdate& update, uint64_t weight) const;
  // Checks and adds. On error nothing has changed.
  absl::Status Add(const EncodedUpdate& update, uint64_t weight);
  // Adds a group in one pass over the sum, on up to `threads` threads: the larger the group, the less of the sum's own
  // memory traffic falls on an update. Check must have accepted each, and their weights must fit together; nothing is
  // checked twice.
  void AddChecked(std::span<const EncodedUpdate* const> updates, std::span<const uint64_t> weights, int threads);
  // Adds the other's sum. INVALID_ARGUMENT: another layout, or the total weight would pass kMaxTotalWeight. On error
  // nothing has changed.
  absl::Status Merge(const ExactSum& other);
  // The sum over the total weight, each element rounded once. FAILED_PRECONDITION when nothing was added.
  absl::StatusOr<Adapter> Mean(int threads = 1) const;
  // Element `index` of the sum in units of 2^-64, exact: what noise is added to. Below 2^118 in magnitude.
  __int128 SumUnits(int64_t index) const {
    const auto i = static_cast<size_t>(index);
    return static_cast<__int128>(hi_[i]) * (int64_t{1} << 56) + lo_[i];
  }
  // Element `index` of the sum, and of the sum over the total weight, rounded once to fp64. Something must have been
  // added.
  double SumAsDouble(int64_t index) const;
  double MeanAsDouble(int64_t index) const;

  // Header (magic, hashes of `binding` and layout, counts), higher limbs, lower limbs, SHA-256 over all before it;
  // little-endian. `binding` is everything a restart must agree on: rule, config, round. Equal sums give equal bytes.
  std::string Save(std::string_view binding) const;
  // Replaces the sum. DATA_LOSS when the bytes are damaged or of another binding or layout, or when limbs or counts are
  // out of range; then nothing has changed.
  absl::Status Restore(std::string_view binding, std::string_view state);

  // Updates added so far, and their weights together.
  int64_t updates() const { return updates_; }
  uint64_t total_weight() const { return total_weight_; }
  // Bytes a sum of this layout takes.
  static int64_t MemoryBytes(const Layout& layout) { return layout.num_elements() * 16; }

 private:
  // Zeros that take memory only once they are written: by the threads that fold, not by the constructor.
  class Limbs {
   public:
    explicit Limbs(int64_t size);
    int64_t* data() { return data_.get(); }
    const int64_t* data() const { return data_.get(); }
    int64_t operator[](int64_t i) const { return data_[static_cast<size_t>(i)]; }

   private:
    struct Free {
      void operator()(int64_t* p) const;
    };
    std::unique_ptr<int64_t[], Free> data_;
  };

  size_t limbs_bytes() const { return static_cast<size_t>(layout_->num_elements()) * sizeof(int64_t); }

  std::shared_ptr<const Layout> layout_;
  Limbs hi_;  // in layout order
  Limbs lo_;
  uint64_t total_weight_ = 0;
  int64_t updates_ = 0;
};

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_EXACT_SUM_H_
