#include "adapters/encoding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/half.h"
#include "common/status_macros.h"

namespace weft {
namespace {

template <typename T>
T Load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

template <typename T>
void Store(T value, char* data) {
  std::memcpy(data, &value, sizeof(T));
}

// Codes of one block of at most kBlockSize values; its scale. `largest` is the largest code.
float QuantiseBlock(std::span<const float> values, int largest, int8_t* codes) {
  float max = 0;
  for (const float value : values) max = std::max(max, std::fabs(value));
  const float scale = max / static_cast<float>(largest);
  const auto limit = static_cast<float>(largest);
  for (size_t i = 0; i < values.size(); ++i) {
    // A scale below the smallest fp32 is 0. One that was itself rounded down may lead beyond the largest code.
    const float quotient = scale == 0 ? 0.0f : std::clamp(values[i] / scale, -limit, limit);
    codes[i] = static_cast<int8_t>(std::nearbyint(quotient));
  }
  return scale;
}

void EncodeBlocks(const Adapter& delta, Encoding encoding, char* out) {
  const Layout& layout = delta.layout();
  const std::vector<TensorPlace> places = TensorPlaces(layout, encoding);
  const bool half = encoding == Encoding::kInt4;
  for (size_t t = 0; t < places.size(); ++t) {
    const std::span<const float> values = delta.tensor(layout.tensors()[t]);
    char* scales = out + (places[t].first_scale * 4);
    char* to = out + places[t].first_code_byte;
    for (size_t begin = 0; begin < values.size(); begin += kBlockSize) {
      const auto block = values.subspan(begin, std::min<size_t>(kBlockSize, values.size() - begin));
      int8_t codes[kBlockSize + 1] = {};  // one more: an odd block's last byte is filled up with 0
      Store(QuantiseBlock(block, half ? 7 : 127, codes), scales);
      scales += 4;
      if (half) {
        for (size_t i = 0; i < block.size(); i += 2) {
          *to++ = static_cast<char>((codes[i] & 15) | (codes[i + 1] & 15) << 4);
        }
      } else {
        std::memcpy(to, codes, block.size());
        to += block.size();
      }
    }
  }
}

// Indices, rising, of the `count` values of largest magnitude; of equal ones, those of lower index.
std::vector<uint32_t> LargestValues(std::span<const float> values, size_t count) {
  std::vector<uint64_t> keys(values.size());  // magnitude above, inverted index below
  for (size_t i = 0; i < values.size(); ++i) {
    const uint64_t magnitude = std::bit_cast<uint32_t>(values[i]) & 0x7fff'ffff;
    keys[i] = magnitude << 32 | (0xffff'ffff - static_cast<uint32_t>(i));
  }
  if (count < keys.size()) {
    std::nth_element(keys.begin(), keys.begin() + static_cast<ptrdiff_t>(count), keys.end(), std::greater<>());
  }
  std::vector<uint32_t> indices(count);
  for (size_t i = 0; i < count; ++i) indices[i] = 0xffff'ffff - static_cast<uint32_t>(keys[i]);
  std::sort(indices.begin(), indices.end());
  return indices;
}

void EncodeTopK(const Adapter& delta, double density, char* out) {
  char* counts = out;
  char* pairs = out + (delta.layout().tensors().size() * 4);
  for (const TensorSpec& tensor : delta.layout().tensors()) {
    const std::span<const float> values = delta.tensor(tensor);
    const auto indices = LargestValues(values, static_cast<size_t>(TopKCount(tensor.size, density)));
    Store(static_cast<uint32_t>(indices.size()), counts);
    counts += 4;
    for (const uint32_t index : indices) {
      Store(index, pairs);
      Store(values[index], pairs + 4);
      pairs += 8;
    }
  }
}

absl::Status CheckTopK(const Layout& layout, double density) {
  if (!(density > 0 && density <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("encoding.density: found ", density, ", expected more than 0 and at most 1"));
  }
  for (const TensorSpec& tensor : layout.tensors()) {
    if (tensor.size <= std::numeric_limits<uint32_t>::max()) continue;
    return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " has ", tensor.size,
                                                   " elements, expected less than 2^32 under topk; take int8"));
  }
  return absl::OkStatus();
}

void DecodeBlocks(const EncodedUpdate& update, Adapter* out) {
  const std::byte* const bytes = update.bytes().data();
  const bool half = update.encoding() == Encoding::kInt4;
  const std::vector<TensorPlace> places = TensorPlaces(update.layout(), update.encoding());
  for (size_t t = 0; t < places.size(); ++t) {
    const std::span<float> values = out->tensor(update.layout().tensors()[t]);
    const std::byte* const codes = bytes + places[t].first_code_byte;
    for (size_t i = 0; i < values.size(); ++i) {
      const auto scale = Load<float>(bytes + ((places[t].first_scale + static_cast<int64_t>(i) / kBlockSize) * 4));
      const auto code =
          half ? HalfByteCode(static_cast<uint8_t>(codes[i / 2]), i % 2 != 0) : static_cast<int8_t>(codes[i]);
      values[i] = static_cast<float>(code) * scale;
    }
  }
}

void DecodeTopK(const EncodedUpdate& update, Adapter* out) {
  const std::byte* counts = update.bytes().data();
  const std::byte* pairs = counts + (update.layout().tensors().size() * 4);
  for (const TensorSpec& tensor : update.layout().tensors()) {
    const std::span<float> values = out->tensor(tensor);
    const auto count = Load<uint32_t>(counts);
    counts += 4;
    for (uint32_t i = 0; i < count; ++i, pairs += 8) values[Load<uint32_t>(pairs)] = Load<float>(pairs + 4);
  }
}

}  // namespace

absl::StatusOr<EncodedUpdate> EncodedUpdate::Encode(const Adapter& delta, const proto::EncodingConfig& config) {
  WEFT_ASSIGN_OR_RETURN(const Encoding encoding, config.values().empty() ? absl::StatusOr<Encoding>(Encoding::kF32)
                                                                         : ParseEncoding(config.values()));
  if (encoding == Encoding::kTopK) WEFT_RETURN_IF_ERROR(CheckTopK(delta.layout(), config.density()));
  // What is wrong with the values is said of them, not of what an encoding makes of them.
  WEFT_RETURN_IF_ERROR(View(delta).CheckValues());
  std::string bytes(EncodedBytes(delta.layout(), encoding, config.density()), '\0');
  const std::span<const float> values = delta.values();
  switch (encoding) {
    case Encoding::kF32:
      std::memcpy(bytes.data(), values.data(), bytes.size());
      break;
    case Encoding::kBf16:
      for (size_t i = 0; i < values.size(); ++i) Store(ToBf16(values[i]), bytes.data() + (i * 2));
      break;
    case Encoding::kF16:
      for (size_t i = 0; i < values.size(); ++i) Store(ToF16(values[i]), bytes.data() + (i * 2));
      break;
    case Encoding::kInt8:
    case Encoding::kInt4:
      EncodeBlocks(delta, encoding, bytes.data());
      break;
    case Encoding::kTopK:
      EncodeTopK(delta, config.density(), bytes.data());
      break;
  }
  return FromBytes(delta.layout_ptr(), encoding, std::move(bytes));
}

absl::StatusOr<EncodedUpdate> EncodedUpdate::FromBytes(std::shared_ptr<const Layout> layout, Encoding encoding,
                                                       std::string bytes) {
  UpdateChecker checker(std::move(layout), encoding);
  WEFT_RETURN_IF_ERROR(checker.Add(std::as_bytes(std::span(bytes))));
  return FromChecked(checker, std::move(bytes));
}

absl::StatusOr<EncodedUpdate> EncodedUpdate::FromChecked(const UpdateChecker& checker, std::string bytes) {
  WEFT_RETURN_IF_ERROR(checker.Finish());
  if (bytes.size() != checker.received_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat("update: found ", bytes.size(), " bytes, of which ",
                                                   checker.received_bytes(), " were checked, expected all"));
  }
  EncodedUpdate update(checker.layout_ptr(), checker.encoding());
  update.bytes_ = std::move(bytes);
  update.statistics_ = Statistics{checker.norm(), checker.max_abs()};
  return update;
}

EncodedUpdate EncodedUpdate::View(const Adapter& adapter) {
  EncodedUpdate update(adapter.layout_ptr(), Encoding::kF32);
  update.viewed_ = &adapter;
  return update;
}

EncodedUpdate EncodedUpdate::Of(std::shared_ptr<const Adapter> adapter) {
  EncodedUpdate update = View(*adapter);
  update.owned_ = std::move(adapter);
  return update;
}

EncodedUpdate EncodedUpdate::Clone() const {
  EncodedUpdate copy(layout_, encoding_);
  copy.bytes_.assign(reinterpret_cast<const char*>(bytes().data()), bytes().size());
  copy.statistics_ = statistics_;
  return copy;
}

std::span<const std::byte> EncodedUpdate::bytes() const {
  return viewed_ != nullptr ? viewed_->bytes() : std::as_bytes(std::span(bytes_));
}

absl::Status EncodedUpdate::CheckValues() const {
  return checked() ? absl::OkStatus() : UpdateChecker(layout_, encoding_).Add(bytes());
}

absl::Status EncodedUpdate::Check() {
  if (checked() || (viewed_ != nullptr && owned_ == nullptr)) return CheckValues();
  UpdateChecker checker(layout_, encoding_);
  WEFT_RETURN_IF_ERROR(checker.Add(bytes()));
  WEFT_RETURN_IF_ERROR(checker.Finish());
  statistics_ = Statistics{checker.norm(), checker.max_abs()};
  return absl::OkStatus();
}

// Unchecked values are always f32.
ValueStatistics EncodedUpdate::UncheckedStatistics() const {
  ValueStatistics statistics;
  statistics.Add({reinterpret_cast<const float*>(bytes().data()), bytes().size() / sizeof(float)}, 0);
  return statistics;
}

double EncodedUpdate::norm() const { return checked() ? statistics_->norm : UncheckedStatistics().norm(); }

float EncodedUpdate::max_abs() const { return checked() ? statistics_->max_abs : UncheckedStatistics().max_abs(); }

Adapter EncodedUpdate::Decode() const {
  Adapter out(layout_);
  const std::span<float> values = out.values();
  const std::byte* const data = bytes().data();
  switch (encoding_) {
    case Encoding::kF32:
      std::memcpy(values.data(), data, values.size_bytes());
      break;
    case Encoding::kBf16:
      for (size_t i = 0; i < values.size(); ++i) values[i] = FromBf16(Load<uint16_t>(data + (i * 2)));
      break;
    case Encoding::kF16:
      for (size_t i = 0; i < values.size(); ++i) values[i] = FromF16(Load<uint16_t>(data + (i * 2)));
      break;
    case Encoding::kInt8:
    case Encoding::kInt4:
      DecodeBlocks(*this, &out);
      break;
    case Encoding::kTopK:
      DecodeTopK(*this, &out);
      break;
  }
  return out;
}

}  // namespace weft
