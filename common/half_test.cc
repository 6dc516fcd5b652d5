#include "common/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace weft {
namespace {

// The number that bits of a format of `mantissa_bits` and `exponent_bits` stand for, by its definition.
double Defined(uint32_t bits, int mantissa_bits, int exponent_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double mantissa = bits & ((1U << mantissa_bits) - 1);
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                         : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  return bits >> (mantissa_bits + exponent_bits) != 0 ? -magnitude : magnitude;
}

bool IsSpecial(uint32_t bits, uint32_t exponent) { return (bits & exponent) == exponent; }

TEST(HalfTest, FromF16_IsTheDefinedNumber) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if (IsSpecial(bits, 0x7c00)) continue;
    EXPECT_EQ(FromF16(bits), Defined(bits, 10, 5)) << bits;
    EXPECT_EQ(std::signbit(FromF16(bits)), bits >= 0x8000);
  }
  EXPECT_EQ(FromF16(0x7c00), std::numeric_limits<float>::infinity());
  EXPECT_EQ(FromF16(0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(FromF16(0x7c01)));
}

TEST(HalfTest, FromBf16_IsTheDefinedNumber) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if (IsSpecial(bits, 0x7f80)) continue;
    EXPECT_EQ(FromBf16(bits), Defined(bits, 7, 8)) << bits;
  }
  EXPECT_TRUE(std::isnan(FromBf16(0x7fc0)));
}

// Between each two neighbours of a format: what lies nearer to one becomes it, the middle the even one.
template <typename To, typename From>
void ExpectNearest(uint32_t largest, To to, From from) {
  for (uint32_t bits = 0; bits < largest; ++bits) {
    const float below = from(bits);
    const float above = from(bits + 1);
    const auto middle = static_cast<float>((static_cast<double>(below) + static_cast<double>(above)) / 2);
    EXPECT_EQ(to(below), bits);
    EXPECT_EQ(to(-below), bits | 0x8000);
    EXPECT_EQ(to(middle), bits % 2 == 0 ? bits : bits + 1) << bits;
    EXPECT_EQ(to(std::nextafter(middle, 0.0f)), bits) << bits;
    EXPECT_EQ(to(std::nextafter(middle, HUGE_VALF)), bits + 1) << bits;
  }
}

TEST(HalfTest, ToF16_RoundsToNearestEven) {
  ExpectNearest(0x7bff, ToF16, FromF16);
  EXPECT_EQ(ToF16(65519.996f), 0x7bff);
  EXPECT_EQ(ToF16(65520.0f), 0x7c00);
  EXPECT_EQ(ToF16(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_TRUE(std::isnan(FromF16(ToF16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(HalfTest, ToBf16_RoundsToNearestEven) {
  ExpectNearest(0x7eff, ToBf16, FromBf16);
  EXPECT_EQ(ToBf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(FromBf16(ToBf16(std::bit_cast<float>(0x7f800001)))));
}

}  // namespace
}  // namespace weft
