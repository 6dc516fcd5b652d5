#include "adapters/update_checker.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/half.h"
#include "common/status_macros.h"

namespace weft {
namespace {

static_assert(std::endian::native == std::endian::little, "bytes are read as they lie");

constexpr uint32_t kMagnitudeMask = 0x7fff'ffff;
constexpr int64_t kBatch = 512;  // values decoded at a time

template <typename T>
T Load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

// The codes of a block (at most kBlockSize), two to a byte for int4, as numbers.
void UnpackCodes(const std::byte* data, Encoding encoding, int64_t count, int8_t* codes) {
  if (encoding == Encoding::kInt8) {
    std::memcpy(codes, data, static_cast<size_t>(count));
    return;
  }
  for (int64_t i = 0; i < count; ++i) codes[i] = HalfByteCode(static_cast<uint8_t>(data[i / 2]), i % 2 != 0);
}

std::string Text(float value) {
  if (std::isnan(value)) return "NaN";
  return std::isinf(value) ? "Inf" : absl::StrCat(value);
}

}  // namespace

void ValueStatistics::Add(std::span<const float> values, int64_t index) {
  uint32_t max_bits = max_bits_;
  for (const float value : values) max_bits = std::max(max_bits, std::bit_cast<uint32_t>(value) & kMagnitudeMask);
  max_bits_ = max_bits;
  // The square of an fp32 is exact in fp64, so that a fused multiply-add would give the same bits.
  const auto add_one = [&](size_t i) {
    const double value = values[i];
    sums_[(static_cast<size_t>(index) + i) % kLanes] += value * value;
  };
  size_t i = 0;
  for (; i < values.size() && (static_cast<size_t>(index) + i) % kLanes != 0; ++i) add_one(i);
  std::array<double, kLanes> sums = sums_;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      sums[lane] += value * value;
    }
  }
  sums_ = sums;
  for (; i < values.size(); ++i) add_one(i);
}

double ValueStatistics::norm() const {
  double sum = 0;
  for (const double lane : sums_) sum += lane;
  return std::sqrt(sum);
}

float ValueStatistics::max_abs() const { return std::bit_cast<float>(max_bits_); }

UpdateChecker::UpdateChecker(std::shared_ptr<const Layout> layout, Encoding encoding)
    : layout_(std::move(layout)), encoding_(encoding) {
  const auto elements = static_cast<uint64_t>(layout_->num_elements());
  switch (encoding_) {
    case Encoding::kF32:
    case Encoding::kBf16:
    case Encoding::kF16:
      num_units_ = elements;
      break;
    case Encoding::kInt8:
    case Encoding::kInt4:
      num_heads_ = static_cast<uint64_t>(NumBlocks(*layout_));
      num_units_ = EncodedBytes(*layout_, encoding_, 0) - num_heads_ * 4;
      break;
    case Encoding::kTopK:  // the counts say how many pairs follow
      num_heads_ = layout_->tensors().size();
      break;
  }
  heads_.reserve(num_heads_);
}

uint64_t UpdateChecker::expected_bytes() const {
  return (num_heads_ * 4) + (num_units_ * static_cast<uint64_t>(BodyUnitBytes()));
}

int64_t UpdateChecker::BodyUnitBytes() const {
  switch (encoding_) {
    case Encoding::kF32:
      return 4;
    case Encoding::kBf16:
    case Encoding::kF16:
      return 2;
    case Encoding::kInt8:
    case Encoding::kInt4:
      return 1;
    case Encoding::kTopK:
      return 8;
  }
  return 1;
}

absl::Status UpdateChecker::Add(std::span<const std::byte> bytes) {
  received_ += bytes.size();
  while (!bytes.empty()) {
    const int64_t unit = in_heads() ? 4 : BodyUnitBytes();
    const uint64_t left = in_heads() ? num_heads_ - heads_.size() : num_units_ - units_;
    if (left == 0) {
      return absl::InvalidArgumentError(absl::StrCat("update: found more than the ", expected_bytes(),
                                                     " bytes of its layout in ", EncodingName(encoding_),
                                                     "; encode the tensors the plan asks for"));
    }
    if (rest_bytes_ > 0 || bytes.size() < static_cast<size_t>(unit)) {
      const auto part = std::min(static_cast<size_t>(unit - rest_bytes_), bytes.size());
      std::memcpy(rest_.data() + rest_bytes_, bytes.data(), part);
      bytes = bytes.subspan(part);
      rest_bytes_ += static_cast<int64_t>(part);
      if (rest_bytes_ < unit) return absl::OkStatus();
      rest_bytes_ = 0;
      WEFT_RETURN_IF_ERROR(AddUnits(rest_.data(), 1));
      continue;
    }
    const uint64_t count = std::min<uint64_t>(left, bytes.size() / static_cast<size_t>(unit));
    WEFT_RETURN_IF_ERROR(AddUnits(bytes.data(), static_cast<int64_t>(count)));
    bytes = bytes.subspan(count * static_cast<size_t>(unit));
  }
  return absl::OkStatus();
}

absl::Status UpdateChecker::Finish() const {
  if (!in_heads() && units_ == num_units_) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("update: found ", received_, " bytes, expected ",
                                                 in_heads() ? "at least " : "", expected_bytes(), " of its layout in ",
                                                 EncodingName(encoding_), "; send all of it"));
}

absl::Status UpdateChecker::AddUnits(const std::byte* data, int64_t count) {
  if (in_heads()) {
    for (int64_t i = 0; i < count; ++i) WEFT_RETURN_IF_ERROR(AddHead(Load<uint32_t>(data + (i * 4))));
    return absl::OkStatus();
  }
  units_ += static_cast<uint64_t>(count);
  switch (encoding_) {
    case Encoding::kF32:
    case Encoding::kBf16:
    case Encoding::kF16:
      return AddPlain(data, count);
    case Encoding::kInt8:
    case Encoding::kInt4:
      return AddCodes(data, count);
    case Encoding::kTopK:
      return AddPairs(data, count);
  }
  return absl::OkStatus();
}

absl::Status UpdateChecker::AddHead(uint32_t bits) {
  if (encoding_ == Encoding::kTopK) {
    const TensorSpec& tensor = layout_->tensors()[heads_.size()];
    if (bits > static_cast<uint64_t>(tensor.size)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " comes with ", bits,
                                                     " values, expected at most its size of ", tensor.size,
                                                     "; encode it again"));
    }
    num_units_ += bits;
  } else if (bits >= 0x7f80'0000) {  // Inf, NaN or a sign
    const TensorSpec& tensor = layout_->tensors()[tensor_];
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", tensor.name, " has a scale of ", Text(std::bit_cast<float>(bits)), " at element ",
                     (static_cast<int64_t>(heads_.size()) - first_scale_) * kBlockSize,
                     ", expected a finite one of at least 0; if training diverged, lower the learning rate"));
  }
  heads_.push_back(bits);
  if (encoding_ != Encoding::kTopK) {
    const int64_t blocks = (layout_->tensors()[tensor_].size + kBlockSize - 1) / kBlockSize;
    if (static_cast<int64_t>(heads_.size()) == first_scale_ + blocks) {
      first_scale_ += blocks;
      ++tensor_;
    }
  }
  if (!in_heads()) {  // the codes begin at the first tensor again
    tensor_ = 0;
    first_scale_ = 0;
  }
  return absl::OkStatus();
}

absl::Status UpdateChecker::AddPlain(const std::byte* data, int64_t count) {
  std::array<float, kBatch> values;
  for (int64_t done = 0; done < count; done += kBatch) {
    const int64_t n = std::min(kBatch, count - done);
    switch (encoding_) {
      case Encoding::kBf16:
        for (int64_t i = 0; i < n; ++i) values[i] = FromBf16(Load<uint16_t>(data + ((done + i) * 2)));
        break;
      case Encoding::kF16:
        for (int64_t i = 0; i < n; ++i) values[i] = FromF16(Load<uint16_t>(data + ((done + i) * 2)));
        break;
      default:
        std::memcpy(values.data(), data + (done * 4), static_cast<size_t>(n) * 4);
    }
    WEFT_RETURN_IF_ERROR(AddValues({values.data(), static_cast<size_t>(n)}, next_));
    next_ += n;
  }
  return absl::OkStatus();
}

absl::Status UpdateChecker::AddCodes(const std::byte* data, int64_t count) {
  const bool half = encoding_ == Encoding::kInt4;
  const int8_t lowest = half ? -8 : -128;  // the one code that negation would not give back
  std::array<int8_t, kBlockSize> codes;
  std::array<float, kBlockSize> values;
  while (count > 0) {
    const TensorSpec& tensor = layout_->tensors()[tensor_];
    // To the end of the block, of the tensor or of the data. A cut never leaves half a byte.
    const int64_t room = std::min(kBlockSize - (next_ % kBlockSize), tensor.size - next_);
    const int64_t n = std::min(room, half ? count * 2 : count);
    const int64_t bytes = half ? (n + 1) / 2 : n;
    UnpackCodes(data, encoding_, n, codes.data());
    const auto scale = std::bit_cast<float>(heads_[static_cast<size_t>(first_scale_ + (next_ / kBlockSize))]);
    bool in_range = true;
    for (int64_t i = 0; i < n; ++i) {
      in_range &= codes[i] != lowest;
      values[i] = static_cast<float>(codes[i]) * scale;
    }
    if (!in_range) {
      const auto* const bad = std::find(codes.data(), codes.data() + n, lowest);
      return BadElement(tensor.offset + next_ + (bad - codes.data()), absl::StrCat("the code ", int{lowest}),
                        absl::StrCat("codes from ", lowest + 1, " to ", -(lowest + 1), "; encode it again"));
    }
    if (half && n % 2 != 0 && (static_cast<uint8_t>(data[bytes - 1]) >> 4) != 0) {
      return BadElement(tensor.offset + tensor.size - 1, "a filled half byte after the last code",
                        "it empty; encode it again");
    }
    WEFT_RETURN_IF_ERROR(AddValues({values.data(), static_cast<size_t>(n)}, tensor.offset + next_));
    data += bytes;
    count -= bytes;
    next_ += n;
    if (next_ == tensor.size) {
      first_scale_ += (tensor.size + kBlockSize - 1) / kBlockSize;
      next_ = 0;
      ++tensor_;
    }
  }
  return absl::OkStatus();
}

absl::Status UpdateChecker::AddPairs(const std::byte* data, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    while (next_ == heads_[tensor_]) {
      next_ = 0;
      last_index_ = -1;
      ++tensor_;
    }
    const TensorSpec& tensor = layout_->tensors()[tensor_];
    const int64_t index = Load<uint32_t>(data + (i * 8));
    const auto value = Load<float>(data + (i * 8) + 4);
    if (index <= last_index_ || index >= tensor.size) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " has index ", index, " at pair ", next_,
                                                     ", expected one above ", last_index_, " and below ", tensor.size,
                                                     "; encode it again"));
    }
    WEFT_RETURN_IF_ERROR(AddValues({&value, 1}, tensor.offset + index));
    last_index_ = index;
    ++next_;
  }
  return absl::OkStatus();
}

absl::Status UpdateChecker::AddValues(std::span<const float> values, int64_t index) {
  statistics_.Add(values, index);
  if (statistics_.max_abs() < kUpdateLimit) return absl::OkStatus();  // false for NaN
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !(std::fabs(v) < kUpdateLimit); });
  return BadElement(index + (bad - values.begin()), Text(*bad),
                    "finite values of magnitude below 2^16; if training diverged, lower the learning rate");
}

absl::Status UpdateChecker::BadElement(int64_t index, const std::string& found, const std::string& expected) const {
  const TensorSpec& tensor = layout_->TensorAt(index);
  return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " holds ", found, " at element ",
                                                 index - tensor.offset, ", expected ", expected));
}

}  // namespace weft
