#include "simulation/shift/shift.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace weft::simulation {
namespace {

using ::testing::ElementsAre;

std::vector<uint8_t> Shift(const std::string& kind, double amount, const ImageSize& size,
                           const std::vector<uint8_t>& from, uint64_t seed = 1) {
  proto::ShiftConfig shift;
  shift.set_kind(kind);
  shift.set_amount(amount);
  std::vector<uint8_t> to(from.size());
  ShiftImage(shift, size, seed, from, to);
  return to;
}

const ImageSize kSmall = {1, 2, 3};
const std::vector<uint8_t> kImage = {1, 2, 3, 40, 50, 60};

TEST(ShiftImageTest, None_IsTheImage) { EXPECT_EQ(Shift("none", 0, kSmall, kImage), kImage); }

TEST(ShiftImageTest, InvertAndMirror) {
  EXPECT_THAT(Shift("invert", 0, kSmall, kImage), ElementsAre(254, 253, 252, 215, 205, 195));
  EXPECT_THAT(Shift("mirror", 0, kSmall, kImage), ElementsAre(3, 2, 1, 60, 50, 40));
}

TEST(ShiftImageTest, Rotate_QuarterTurnsOfASquare) {
  const ImageSize square = {1, 3, 3};
  const std::vector<uint8_t> from = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  EXPECT_THAT(Shift("rotate", 90, square, from), ElementsAre(3, 6, 9, 2, 5, 8, 1, 4, 7)) << "counter-clockwise";
  EXPECT_THAT(Shift("rotate", -90, square, from), ElementsAre(7, 4, 1, 8, 5, 2, 9, 6, 3));
  EXPECT_THAT(Shift("rotate", 180, square, from), ElementsAre(9, 8, 7, 6, 5, 4, 3, 2, 1));
  EXPECT_EQ(Shift("rotate", 0, square, from), from);
}

TEST(ShiftImageTest, Rotate_BetweenPixelsIsBilinear) {
  // Of two columns, turned by 45 degrees: 0.5 -+ 0.5 sqrt(2) and 0.5 of the way from left to right.
  const auto to = Shift("rotate", 45, {1, 2, 2}, {0, 200, 0, 200});
  EXPECT_THAT(to, ElementsAre(100, 200, 0, 100));
}

// Golden: numpy, the weights exp(-x^2 / 2 sigma^2) for x in -3..3 normalised, np.pad(..., "symmetric"), rows then
// columns, np.rint; sigma 1, image np.arange(12).reshape(3, 4) * 20.
TEST(ShiftImageTest, Blur_IsAGaussian) {
  const std::vector<uint8_t> from = {0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220};
  EXPECT_THAT(Shift("blur", 1, {1, 3, 4}, from), ElementsAre(42, 55, 72, 85, 89, 101, 119, 131, 135, 148, 165, 178));
  EXPECT_THAT(Shift("blur", 2, kSmall, {7, 7, 7, 7, 7, 7}), ElementsAre(7, 7, 7, 7, 7, 7)) << "keeps what is even";
  EXPECT_EQ(Shift("blur", 0, kSmall, kImage), kImage);
}

TEST(ShiftImageTest, Noise_HasItsDeviationAndFollowsTheSeed) {
  const ImageSize size = {1, 100, 100};
  const std::vector<uint8_t> from(10'000, 128);
  const auto to = Shift("noise", 0.1, size, from);
  double sum = 0, square = 0;
  for (const uint8_t value : to) {
    sum += value - 128.0;
    square += (value - 128.0) * (value - 128.0);
  }
  EXPECT_NEAR(sum / 10'000, 0, 1);
  EXPECT_NEAR(std::sqrt(square / 10'000), 25.5, 0.7);
  EXPECT_EQ(Shift("noise", 0.1, size, from), to);
  EXPECT_NE(Shift("noise", 0.1, size, from, 2), to);
}

TEST(ShiftImageTest, Channels_EachForItself) {
  EXPECT_THAT(Shift("mirror", 0, {2, 1, 2}, {1, 2, 3, 4}), ElementsAre(2, 1, 4, 3));
}

}  // namespace
}  // namespace weft::simulation
