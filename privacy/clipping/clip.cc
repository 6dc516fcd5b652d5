#include "privacy/clipping/clip.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace weft::privacy {
namespace {

constexpr size_t kLanes = 8;
// One lane of a block adds 128 squares, its lanes 3 more, and each level of blocks 1: with up to 2^40 values a square
// goes through fewer than 170 additions, each off by 2^-53 at most. All terms are positive, so that bounds the whole:
// 2^-45.
constexpr size_t kBlock = 128 * kLanes;
constexpr double kNormError = 0x1p-44;

double SumOfSquaresOfBlock(std::span<const float> values) {
  std::array<double, kLanes> lanes{};
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      lanes[lane] += value * value;
    }
  }
  for (; i < values.size(); ++i) lanes[i % kLanes] += static_cast<double>(values[i]) * values[i];
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// Pairwise over blocks: halves at a multiple of the block.
double SumOfSquares(std::span<const float> values) {
  if (values.size() <= kBlock) return SumOfSquaresOfBlock(values);
  const size_t half = (values.size() / kBlock + 1) / 2 * kBlock;
  return SumOfSquares(values.first(half)) + SumOfSquares(values.subspan(half));
}

}  // namespace

double L2Norm(std::span<const float> values) { return std::sqrt(SumOfSquares(values)); }

absl::StatusOr<Clipped> ClipFactor(double bound, const Adapter& delta) {
  if (!(bound >= 0x1p-100 && bound <= 0x1p100)) {
    return absl::InvalidArgumentError(
        absl::StrCat("found a clipping bound of ", bound, ", expected a positive one, from 2^-100 to 2^100"));
  }
  Clipped result{.norm = L2Norm(delta.values())};
  // Squares of finite values can't overflow a double: so this finds every NaN and Inf.
  if (!std::isfinite(result.norm)) return CheckFinite(delta);
  const double at_most = result.norm * (1 + kNormError);
  // A product is rounded to fp32 by at most 2^-24 of itself, or 2^-150 when it is that small (of 2^40 values: 2^-130,
  // which is below 2^-30 of the bound): the 2^-23 taken off outweigh both.
  if (at_most > bound) result.factor = bound / at_most * (1 - 0x1p-23);
  return result;
}

absl::StatusOr<Clipped> ClipToNorm(double bound, Adapter& delta) {
  WEFT_ASSIGN_OR_RETURN(const Clipped result, ClipFactor(bound, delta));
  if (!result.clipped()) return result;
  for (float& value : delta.values()) value = static_cast<float>(value * result.factor);
  return result;
}

}  // namespace weft::privacy
