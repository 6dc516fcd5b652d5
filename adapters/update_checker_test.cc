#include "adapters/update_checker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "common/half.h"

namespace weft {
namespace {

using testing::HasSubstr;

std::shared_ptr<const Layout> TwoTensors() {
  return *Layout::Create(
      {{.name = "first", .role = "lora_a", .shape = {131}}, {.name = "second", .role = "lora_b", .shape = {3}}});
}

template <typename T>
void Append(std::string* bytes, T value) {
  bytes->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

absl::Status Check(Encoding encoding, const std::string& bytes) {
  UpdateChecker checker(TwoTensors(), encoding);
  const absl::Status status = checker.Add(std::as_bytes(std::span(bytes)));
  return status.ok() ? checker.Finish() : status;
}

void ExpectRefused(Encoding encoding, const std::string& bytes, const std::string& why) {
  const absl::Status status = Check(encoding, bytes);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
  EXPECT_THAT(status.message(), HasSubstr(why));
}

std::string PlainF32(float last = 1) {
  std::string bytes;
  for (int i = 0; i < 133; ++i) Append(&bytes, static_cast<float>(i) / 8);
  Append(&bytes, last);
  return bytes;
}

// Three scales, then codes.
std::string Int8(float scale = 2, int code = -127) {
  std::string bytes;
  for (const float s : {1.0f, scale, 0.5f}) Append(&bytes, s);
  for (int i = 0; i < 134; ++i) Append(&bytes, static_cast<int8_t>(i == 132 ? code : i - 67));
  return bytes;
}

std::string Int4(uint8_t byte_of_third = 0x90, uint8_t last = 0x07) {
  std::string bytes;
  for (int i = 0; i < 3; ++i) Append(&bytes, 0.25f);
  for (int i = 0; i < 65; ++i) Append(&bytes, uint8_t{0x1f});
  Append(&bytes, uint8_t{0x02});  // the odd tensor's last
  Append(&bytes, byte_of_third);
  Append(&bytes, last);
  return bytes;
}

std::string TopK(std::initializer_list<std::pair<uint32_t, float>> first, std::pair<uint32_t, float> second) {
  std::string bytes;
  Append(&bytes, static_cast<uint32_t>(first.size()));
  Append(&bytes, uint32_t{1});
  for (const auto& [index, value] : first) {
    Append(&bytes, index);
    Append(&bytes, value);
  }
  Append(&bytes, second.first);
  Append(&bytes, second.second);
  return bytes;
}

std::string Valid(Encoding encoding) {
  std::string bytes;
  switch (encoding) {
    case Encoding::kF32:
      return PlainF32();
    case Encoding::kBf16:
    case Encoding::kF16:
      for (int i = 0; i < 134; ++i) Append(&bytes, static_cast<uint16_t>(i * 37));
      return bytes;
    case Encoding::kInt8:
      return Int8();
    case Encoding::kInt4:
      return Int4();
    case Encoding::kTopK:
      return TopK({{0, 1.5f}, {7, -3.0f}, {130, 0.0f}}, {2, 100.0f});
  }
  return bytes;
}

constexpr Encoding kEncodings[] = {Encoding::kF32,  Encoding::kBf16, Encoding::kF16,
                                   Encoding::kInt8, Encoding::kInt4, Encoding::kTopK};

TEST(UpdateCheckerTest, Add_PiecesOfAnySizeGiveTheSameBits) {
  for (const Encoding encoding : kEncodings) {
    const std::string bytes = Valid(encoding);
    UpdateChecker whole(TwoTensors(), encoding);
    ASSERT_EQ(whole.Add(std::as_bytes(std::span(bytes))), absl::OkStatus()) << EncodingName(encoding);
    ASSERT_EQ(whole.Finish(), absl::OkStatus());
    EXPECT_EQ(whole.received_bytes(), bytes.size());
    EXPECT_EQ(whole.expected_bytes(), bytes.size());
    EXPECT_GT(whole.norm(), 0);
    for (const size_t piece : {1, 2, 3, 5, 7, 64}) {
      UpdateChecker pieces(TwoTensors(), encoding);
      for (size_t i = 0; i < bytes.size(); i += piece) {
        EXPECT_NE(pieces.Finish(), absl::OkStatus());
        const std::string_view part = std::string_view(bytes).substr(i, piece);
        ASSERT_EQ(pieces.Add(std::as_bytes(std::span(part))), absl::OkStatus());
      }
      EXPECT_EQ(pieces.Finish(), absl::OkStatus());
      EXPECT_EQ(pieces.norm(), whole.norm());
      EXPECT_EQ(pieces.max_abs(), whole.max_abs());
    }
  }
}

TEST(UpdateCheckerTest, NormAndMaxAbs_AreOfTheDecodedValues) {
  UpdateChecker int8(TwoTensors(), Encoding::kInt8);
  const std::string bytes = Int8(2, -127);
  ASSERT_EQ(int8.Add(std::as_bytes(std::span(bytes))), absl::OkStatus());
  double squares = 0;
  for (int i = 0; i < 134; ++i) {
    const double scale = i < 128 ? 1 : i < 131 ? 2 : 0.5;
    const double value = scale * (i == 132 ? -127 : i - 67);
    squares += value * value;
  }
  EXPECT_EQ(int8.norm(), std::sqrt(squares));  // multiples of 1/2 have exact sums
  EXPECT_EQ(int8.max_abs(), 2 * (130 - 67));

  UpdateChecker topk(TwoTensors(), Encoding::kTopK);
  const std::string pairs = Valid(Encoding::kTopK);
  ASSERT_EQ(topk.Add(std::as_bytes(std::span(pairs))), absl::OkStatus());
  EXPECT_EQ(topk.norm(), std::sqrt(1.5 * 1.5 + 9 + 10000));
  EXPECT_EQ(topk.max_abs(), 100);
}

TEST(UpdateCheckerTest, Add_MissingOrSurplusBytesAreRefused) {
  for (const Encoding encoding : kEncodings) {
    const std::string bytes = Valid(encoding);
    ExpectRefused(encoding, bytes.substr(0, bytes.size() - 1), "bytes, expected " + std::to_string(bytes.size()));
    ExpectRefused(encoding, bytes + '\0', "found more than the " + std::to_string(bytes.size()));
    ExpectRefused(encoding, "", "found 0 bytes");
  }
}

TEST(UpdateCheckerTest, Add_ValuesThatAreNotFiniteOrTooLargeAreRefused) {
  using Limits = std::numeric_limits<float>;
  EXPECT_EQ(Check(Encoding::kF32, PlainF32(std::nextafter(-kUpdateLimit, 0.0f))), absl::OkStatus());
  ExpectRefused(Encoding::kF32, PlainF32(kUpdateLimit), "tensor second holds 65536 at element 2, expected finite");
  ExpectRefused(Encoding::kF32, PlainF32(-Limits::infinity()), "tensor second holds Inf at element 2");
  ExpectRefused(Encoding::kF32, PlainF32(Limits::quiet_NaN()), "tensor second holds NaN at element 2");
  ExpectRefused(Encoding::kF32, PlainF32(-Limits::signaling_NaN()), "NaN");
  for (const Encoding encoding : {Encoding::kBf16, Encoding::kF16}) {
    std::string bytes = Valid(encoding);
    const uint16_t infinity = encoding == Encoding::kBf16 ? 0xff80 : 0xfc00;
    std::memcpy(bytes.data() + 130 * 2, &infinity, 2);
    ExpectRefused(encoding, bytes, "tensor first holds Inf at element 130");
  }
  std::string bytes = Valid(Encoding::kBf16);
  const uint16_t limit = ToBf16(kUpdateLimit);
  std::memcpy(bytes.data(), &limit, 2);
  ExpectRefused(Encoding::kBf16, bytes, "tensor first holds 65536 at element 0");
  ExpectRefused(Encoding::kInt8, Int8(2000), "tensor first holds 122000 at element 128");
  ExpectRefused(Encoding::kTopK, TopK({{5, Limits::infinity()}}, {0, 1}), "tensor first holds Inf at element 5");
}

TEST(UpdateCheckerTest, Add_ScalesAndCodesOutOfRangeAreRefused) {
  using Limits = std::numeric_limits<float>;
  for (const float scale : {-1.0f, -0.0f, Limits::infinity(), Limits::quiet_NaN()}) {
    ExpectRefused(Encoding::kInt8, Int8(scale), "tensor first has a scale of ");
    ExpectRefused(Encoding::kInt8, Int8(scale), "at element 128, expected a finite one of at least 0");
  }
  ExpectRefused(Encoding::kInt8, Int8(1, -128),
                "tensor second holds the code -128 at element 1, expected codes from -127");
  EXPECT_EQ(Check(Encoding::kInt4, Int4(0x99, 0x09)), absl::OkStatus());
  ExpectRefused(Encoding::kInt4, Int4(0x80),
                "tensor second holds the code -8 at element 1, expected codes from -7 to 7");
  ExpectRefused(Encoding::kInt4, Int4(0x98), "tensor second holds the code -8 at element 0");
  ExpectRefused(Encoding::kInt4, Int4(0x90, 0x17), "tensor second holds a filled half byte");
}

TEST(UpdateCheckerTest, Add_CountsAndIndicesOutOfRangeAreRefused) {
  EXPECT_EQ(Check(Encoding::kTopK, TopK({}, {2, 1})), absl::OkStatus());
  ExpectRefused(Encoding::kTopK, TopK({}, {3, 1}),
                "tensor second has index 3 at pair 0, expected one above -1 and below 3");
  ExpectRefused(Encoding::kTopK, TopK({{4, 1}, {4, 1}}, {0, 1}),
                "tensor first has index 4 at pair 1, expected one above 4");
  ExpectRefused(Encoding::kTopK, TopK({{4, 1}, {3, 1}}, {0, 1}), "tensor first has index 3 at pair 1");
  ExpectRefused(Encoding::kTopK, TopK({{0xffffffff, 1}}, {0, 1}), "tensor first has index 4294967295");
  std::string bytes = TopK({{4, 1}}, {0, 1});
  bytes[4] = 4;
  ExpectRefused(Encoding::kTopK, bytes, "tensor second comes with 4 values, expected at most its size of 3");
}

TEST(ValueStatisticsTest, Add_PiecesGiveTheSameBits) {
  std::vector<float> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i)) * 3.3f;
  ValueStatistics whole;
  whole.Add(values, 0);
  ValueStatistics pieces;
  for (size_t begin = 0; begin < values.size(); begin += 37) {
    pieces.Add(std::span(values).subspan(begin, std::min<size_t>(37, values.size() - begin)),
               static_cast<int64_t>(begin));
  }
  EXPECT_EQ(pieces.norm(), whole.norm());
  EXPECT_EQ(pieces.max_abs(), whole.max_abs());
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  EXPECT_NEAR(whole.norm(), std::sqrt(squares), 1e-12 * std::sqrt(squares));  // seen: 1e-15
  values[500] += 1e-6f;
  ValueStatistics other;
  other.Add(values, 0);
  EXPECT_GT(std::fabs(other.norm() - std::sqrt(squares)), 1e-12 * std::sqrt(squares));
}

}  // namespace
}  // namespace weft
