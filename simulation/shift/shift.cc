#include "simulation/shift/shift.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "common/random.h"

namespace weft::simulation {
namespace {

uint8_t ToPixel(double value) { return static_cast<uint8_t>(std::clamp(std::lround(value), 0L, 255L)); }

// One channel of an image, read beyond its border by clamping.
struct Plane {
  std::span<const uint8_t> pixels;
  int64_t height, width;
  double At(int64_t y, int64_t x) const {
    return pixels[std::clamp<int64_t>(y, 0, height - 1) * width + std::clamp<int64_t>(x, 0, width - 1)];
  }
};

void Rotate(const Plane& from, double degrees, std::span<uint8_t> to) {
  const double angle = degrees * std::numbers::pi / 180, cosine = std::cos(angle), sine = std::sin(angle);
  const double centre_y = static_cast<double>(from.height - 1) / 2, centre_x = static_cast<double>(from.width - 1) / 2;
  for (int64_t y = 0; y < from.height; ++y) {
    for (int64_t x = 0; x < from.width; ++x) {
      const double dy = static_cast<double>(y) - centre_y, dx = static_cast<double>(x) - centre_x;
      // Where it came from; y points down.
      const double source_x = centre_x + cosine * dx - sine * dy, source_y = centre_y + sine * dx + cosine * dy;
      const double left = std::floor(source_x), top = std::floor(source_y);
      const double right_part = source_x - left, lower_part = source_y - top;
      const auto column = static_cast<int64_t>(left), row = static_cast<int64_t>(top);
      const double upper = from.At(row, column) * (1 - right_part) + from.At(row, column + 1) * right_part;
      const double lower = from.At(row + 1, column) * (1 - right_part) + from.At(row + 1, column + 1) * right_part;
      to[y * from.width + x] = ToPixel(upper * (1 - lower_part) + lower * lower_part);
    }
  }
}

// The index that `i` is mirrored to: ... 1 0 | 0 1 ... n-1 | n-1 ...
int64_t Mirrored(int64_t i, int64_t size) {
  const int64_t period = 2 * size;
  const int64_t place = ((i % period) + period) % period;
  return place < size ? place : period - 1 - place;
}

void Blur(const Plane& from, double sigma, std::span<uint8_t> to) {
  const auto reach = static_cast<int64_t>(std::ceil(3 * sigma));
  std::vector<double> weights;
  double sum = 0;
  for (int64_t i = -reach; i <= reach; ++i) {
    const double distance = static_cast<double>(i) / std::max(sigma, 1e-9);
    weights.push_back(std::exp(-0.5 * distance * distance));
    sum += weights.back();
  }
  std::vector<double> rows(from.pixels.size());
  for (int64_t y = 0; y < from.height; ++y) {
    for (int64_t x = 0; x < from.width; ++x) {
      double value = 0;
      for (int64_t i = -reach; i <= reach; ++i) value += weights[i + reach] * from.At(y, Mirrored(x + i, from.width));
      rows[y * from.width + x] = value / sum;
    }
  }
  for (int64_t y = 0; y < from.height; ++y) {
    for (int64_t x = 0; x < from.width; ++x) {
      double value = 0;
      for (int64_t i = -reach; i <= reach; ++i) {
        value += weights[i + reach] * rows[Mirrored(y + i, from.height) * from.width + x];
      }
      to[y * from.width + x] = ToPixel(value / sum);
    }
  }
}

}  // namespace

void ShiftImage(const proto::ShiftConfig& shift, const ImageSize& size, uint64_t seed, std::span<const uint8_t> from,
                std::span<uint8_t> to) {
  const int64_t plane = size.height * size.width;
  Philox random(seed, StreamId("shift.noise"));
  for (int64_t c = 0; c < size.channels; ++c) {
    const Plane in = {from.subspan(c * plane, plane), size.height, size.width};
    const std::span<uint8_t> out = to.subspan(c * plane, plane);
    if (shift.kind() == "rotate") {
      Rotate(in, shift.amount(), out);
    } else if (shift.kind() == "blur") {
      Blur(in, shift.amount(), out);
    } else if (shift.kind() == "mirror") {
      for (int64_t y = 0; y < size.height; ++y) {
        std::reverse_copy(in.pixels.begin() + y * size.width, in.pixels.begin() + (y + 1) * size.width,
                          out.begin() + y * size.width);
      }
    } else {
      for (int64_t i = 0; i < plane; ++i) {
        out[i] = shift.kind() == "invert"  ? static_cast<uint8_t>(255 - in.pixels[i])
                 : shift.kind() == "noise" ? ToPixel(in.pixels[i] + 255 * shift.amount() * random.NextNormal())
                                           : in.pixels[i];
      }
    }
  }
}

}  // namespace weft::simulation
