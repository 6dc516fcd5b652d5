#include "aggregators/core/exact_sum.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/hash.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

using Unsigned128 = unsigned __int128;

static_assert(std::endian::native == std::endian::little, "Save writes memory as it lies");

constexpr int kUnitBits = 64;  // a unit is 2^-64
constexpr uint32_t kMagnitudeMask = 0x7fffffff;
constexpr char kMagic[] = "weft.exact_sum.1";
constexpr size_t kMagicBytes = sizeof(kMagic) - 1;
constexpr size_t kHashBytes = 32;

// Fixed part of a saved state, followed by the elements and a SHA-256.
struct Header {
  char magic[kMagicBytes];
  char binding[kHashBytes];
  char layout[kHashBytes];
  uint64_t elements;
  uint64_t total_weight;
  int64_t updates;
};
static_assert(sizeof(Header) == kMagicBytes + 2 * kHashBytes + 24, "no padding: every saved byte is defined");

// p / 2^shift to the nearest integer, ties to even. p < 2^62, shift >= 1.
uint64_t ShiftRightRounded(uint64_t p, int shift) {
  if (shift >= 63) return 0;  // less than half
  const uint64_t quotient = p >> shift;
  const uint64_t rest = p - (quotient << shift);
  const uint64_t half = uint64_t{1} << (shift - 1);
  return quotient + (rest > half || (rest == half && (quotient & 1) != 0) ? 1 : 0);
}

// value * weight in units. |value| < 2^24 and weight < 2^38, so that the mantissa's product stays below 2^62 and the
// result below 2^126.
__int128 Units(float value, uint64_t weight) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t exponent = (bits & kMagnitudeMask) >> 23;
  const uint64_t mantissa = (bits & 0x7fffff) | (exponent == 0 ? 0 : 0x800000);
  // |value| is mantissa * 2^(max(exponent, 1) - 150).
  const int shift = static_cast<int>(std::max(exponent, 1u)) - 150 + kUnitBits;
  const uint64_t product = mantissa * weight;
  const Unsigned128 units =
      shift >= 0 ? static_cast<Unsigned128>(product) << shift : ShiftRightRounded(product, -shift);
  return value < 0 ? -static_cast<__int128>(units) : static_cast<__int128>(units);
}

int BitWidth(Unsigned128 x) {
  const auto high = static_cast<uint64_t>(x >> 64);
  return high != 0 ? 64 + std::bit_width(high) : std::bit_width(static_cast<uint64_t>(x));
}

// 2^exponent for a normal fp32: -126 <= exponent <= 127.
float PowerOfTwo(int exponent) { return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23); }

// sum / weight (in units) as the nearest fp32, ties to even. |sum| < 2^126, 1 <= weight < 2^38, |result| <= 2^24.
float Quotient(__int128 sum, uint64_t weight) {
  if (sum == 0) return 0;
  const Unsigned128 magnitude = sum < 0 ? -static_cast<Unsigned128>(sum) : static_cast<Unsigned128>(sum);
  // Scale by a power of two so that the integer quotient has 26 or 27 bits: 24 for the result, the rest to round by.
  // The dividend then has at most 38 + 26 = 64 bits.
  const int scale = std::bit_width(weight) + 26 - BitWidth(magnitude);
  const Unsigned128 scaled = scale >= 0 ? magnitude << scale : magnitude >> -scale;
  const bool cut = scale < 0 && (scaled << -scale) != magnitude;
  const auto dividend = static_cast<uint64_t>(scaled);
  const uint64_t quotient = dividend / weight;
  const bool inexact = cut || dividend % weight != 0;

  const int surplus = std::bit_width(quotient) - 24;  // 2 or 3
  // The analyzer thinks of a quotient of 0, which the scale rules out.
  uint64_t mantissa = quotient >> surplus;  // NOLINT(clang-analyzer-core.UndefinedBinaryOperatorResult)
  const uint64_t rest = quotient - (mantissa << surplus);
  const uint64_t half = uint64_t{1} << (surplus - 1);
  if (rest > half || (rest == half && (inexact || (mantissa & 1) != 0))) ++mantissa;
  // Exact: the mantissa is at most 2^24, and results are 0 or at least 2^-64 / 2^38, a normal number.
  const float result = static_cast<float>(mantissa) * PowerOfTwo(surplus - scale - kUnitBits);
  return sum < 0 ? -result : result;
}

// True for NaN, Inf and every magnitude of the limit or more: their bit patterns are not below the limit's.
bool IsOutside(float value) {
  return (std::bit_cast<uint32_t>(value) & kMagnitudeMask) >= std::bit_cast<uint32_t>(ExactSum::kValueLimit);
}

absl::Status CheckValues(const Adapter& adapter) {
  const std::span<const float> values = adapter.values();
  uint32_t largest = 0;  // NaN and Inf have larger patterns than any number
  for (const float value : values) largest = std::max(largest, std::bit_cast<uint32_t>(value) & kMagnitudeMask);
  if (largest < std::bit_cast<uint32_t>(ExactSum::kValueLimit)) return absl::OkStatus();
  WEFT_RETURN_IF_ERROR(CheckFinite(adapter));
  const auto bad = std::find_if(values.begin(), values.end(), IsOutside);
  const TensorSpec& tensor = adapter.layout().TensorAt(bad - values.begin());
  return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " holds ", *bad, " at element ",
                                                 bad - values.begin() - tensor.offset,
                                                 ", expected magnitudes below 2^24; the training has diverged, lower "
                                                 "its learning rate"));
}

// `header` has been compared in size only.
absl::Status CheckHeader(const Header& header, const Header& expected) {
  const auto same = [](const char* found, const char* wanted, size_t size) {
    return std::memcmp(found, wanted, size) == 0;
  };
  if (!same(header.magic, expected.magic, kMagicBytes)) {
    return absl::DataLossError("saved sum: not the state of a sum; start the round again");
  }
  if (!same(header.binding, expected.binding, kHashBytes)) {
    return absl::DataLossError("saved sum: found another rule, config or round than this one; start the round again");
  }
  if (!same(header.layout, expected.layout, kHashBytes) || header.elements != expected.elements) {
    return absl::DataLossError("saved sum: found another layout than this one; start the round again");
  }
  return absl::OkStatus();
}

Header MakeHeader(std::string_view binding, const Layout& layout, uint64_t total_weight, int64_t updates) {
  Header header{};
  std::memcpy(header.magic, kMagic, kMagicBytes);
  std::memcpy(header.binding, Sha256Of(binding).data(), kHashBytes);
  std::memcpy(header.layout, Sha256Of(layout.hash()).data(), kHashBytes);
  header.elements = static_cast<uint64_t>(layout.num_elements());
  header.total_weight = total_weight;
  header.updates = updates;
  return header;
}

}  // namespace

ExactSum::ExactSum(std::shared_ptr<const Layout> layout)
    : layout_(std::move(layout)), sums_(static_cast<size_t>(layout_->num_elements())) {}

absl::Status ExactSum::Check(const Adapter& adapter, uint64_t weight) const {
  if (!(adapter.layout() == *layout_)) {
    return absl::InvalidArgumentError(absl::StrCat("layout: found hash ", adapter.layout().hash(), ", expected ",
                                                   layout_->hash(), "; send the tensors the plan asks for"));
  }
  if (weight == 0) return absl::InvalidArgumentError("weight: found 0, expected at least 1");
  if (weight > kMaxTotalWeight - total_weight_) {
    return absl::InvalidArgumentError(absl::StrCat("weight: found ", weight, " on top of ", total_weight_,
                                                   ", expected a total of at most ", kMaxTotalWeight,
                                                   "; lower the bound on the weight of one client"));
  }
  return CheckValues(adapter);
}

absl::Status ExactSum::Add(const Adapter& adapter, uint64_t weight) {
  WEFT_RETURN_IF_ERROR(Check(adapter, weight));
  AddChecked(adapter, weight);
  return absl::OkStatus();
}

void ExactSum::AddChecked(const Adapter& adapter, uint64_t weight) {
  const float* const values = adapter.values().data();
  __int128* const sums = sums_.data();
  const size_t size = sums_.size();
  for (size_t i = 0; i < size; ++i) sums[i] += Units(values[i], weight);
  total_weight_ += weight;
  ++updates_;
}

absl::Status ExactSum::Merge(const ExactSum& other) {
  if (!(*other.layout_ == *layout_)) {
    return absl::InvalidArgumentError(absl::StrCat("merge: found a sum of layout ", other.layout_->hash(),
                                                   ", expected ", layout_->hash(), "; merge parts of one round"));
  }
  if (other.total_weight_ > kMaxTotalWeight - total_weight_) {
    return absl::InvalidArgumentError(absl::StrCat("merge: found weight ", other.total_weight_, " on top of ",
                                                   total_weight_, ", expected a total of at most ", kMaxTotalWeight,
                                                   "; lower the bound on the weight of one client"));
  }
  const __int128* const more = other.sums_.data();
  __int128* const sums = sums_.data();
  const size_t size = sums_.size();
  for (size_t i = 0; i < size; ++i) sums[i] += more[i];
  total_weight_ += other.total_weight_;
  updates_ += other.updates_;
  return absl::OkStatus();
}

absl::StatusOr<Adapter> ExactSum::Mean() const {
  if (updates_ == 0) {
    return absl::FailedPreconditionError("nothing was accumulated, expected at least one update before the mean");
  }
  Adapter mean(layout_);
  float* const values = mean.values().data();
  const size_t size = sums_.size();
  for (size_t i = 0; i < size; ++i) values[i] = Quotient(sums_[i], total_weight_);
  return mean;
}

std::string ExactSum::Save(std::string_view binding) const {
  const Header header = MakeHeader(binding, *layout_, total_weight_, updates_);
  const size_t sums_bytes = sums_.size() * sizeof(__int128);
  std::string state;
  state.reserve(sizeof(header) + sums_bytes + kHashBytes);
  state.append(reinterpret_cast<const char*>(&header), sizeof(header));
  state.append(reinterpret_cast<const char*>(sums_.data()), sums_bytes);
  state.append(Sha256Of(state));
  return state;
}

absl::Status ExactSum::Restore(std::string_view binding, std::string_view state) {
  const size_t sums_bytes = sums_.size() * sizeof(__int128);
  const size_t expected_bytes = sizeof(Header) + sums_bytes + kHashBytes;
  if (state.size() != expected_bytes) {
    return absl::DataLossError(absl::StrCat("saved sum: found ", state.size(), " bytes, expected ", expected_bytes,
                                            "; start the round again"));
  }
  Header header;
  std::memcpy(&header, state.data(), sizeof(header));
  WEFT_RETURN_IF_ERROR(CheckHeader(header, MakeHeader(binding, *layout_, 0, 0)));
  const std::string_view content = state.substr(0, state.size() - kHashBytes);
  if (Sha256Of(content) != state.substr(content.size())) {
    return absl::DataLossError("saved sum: its checksum does not fit its bytes; start the round again");
  }
  std::memcpy(sums_.data(), state.data() + sizeof(Header), sums_bytes);
  total_weight_ = header.total_weight;
  updates_ = header.updates;
  return absl::OkStatus();
}

}  // namespace weft::aggregators
