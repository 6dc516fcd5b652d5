#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "training/ops/attention.h"

namespace weft {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

// Llama 3.1: short wavelengths stay, long ones are stretched by `factor`, in between by a blend of both.
float Llama3Frequency(const RotaryPositions& rotary, float frequency) {
  const double waves = static_cast<double>(rotary.original_max_positions) * frequency / kTwoPi;
  if (waves < rotary.low_frequency_factor) return static_cast<float>(frequency / rotary.factor);
  if (waves > rotary.high_frequency_factor) return frequency;
  const double kept =
      (waves - rotary.low_frequency_factor) / (rotary.high_frequency_factor - rotary.low_frequency_factor);
  return static_cast<float>((1 - kept) * frequency / rotary.factor + kept * frequency);
}

// YaRN (Peng et al., arXiv 2309.00071, section 3.2): dimensions that turn more than beta_fast times within the original
// length stay, those that turn less than beta_slow times are stretched, in between a ramp over the dimensions.
float YarnFrequency(const RotaryPositions& rotary, int64_t i, float frequency) {
  const auto dimension_of = [&](double turns) {
    return static_cast<double>(rotary.rotated) *
           std::log(static_cast<double>(rotary.original_max_positions) / (turns * kTwoPi)) /
           (2 * std::log(rotary.theta));
  };
  const double low = std::max(0.0, std::floor(dimension_of(rotary.beta_fast)));
  double high = std::min(static_cast<double>(rotary.rotated - 1), std::ceil(dimension_of(rotary.beta_slow)));
  if (low == high) high += 0.001;
  const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  return static_cast<float>(frequency / rotary.factor * stretched + frequency * (1 - stretched));
}

float Frequency(const RotaryPositions& rotary, int64_t i) {
  const auto frequency =
      static_cast<float>(std::pow(rotary.theta, -2 * static_cast<double>(i) / static_cast<double>(rotary.rotated)));
  switch (rotary.scaling) {
    case RotaryPositions::Scaling::kNone:
      return frequency;
    case RotaryPositions::Scaling::kLinear:
      return static_cast<float>(frequency / rotary.factor);
    case RotaryPositions::Scaling::kLlama3:
      return Llama3Frequency(rotary, frequency);
    case RotaryPositions::Scaling::kYarn:
      return YarnFrequency(rotary, i, frequency);
  }
  return frequency;
}

}  // namespace

// Frequencies and angles are rounded to fp32, as in the models' own code: at far positions that shows.
RotaryTables MakeRotaryTables(const RotaryPositions& rotary, int64_t positions, at::Device device) {
  const int64_t half = rotary.rotated / 2;
  RotaryTables tables = {.rotated = rotary.rotated,
                         .cos = at::empty({positions, half}, at::kFloat),
                         .sin = at::empty({positions, half}, at::kFloat),
                         .device_cos = {},
                         .device_sin = {}};
  const auto factor =
      static_cast<float>(rotary.scaling == RotaryPositions::Scaling::kYarn ? rotary.attention_factor : 1);
  auto *cos = tables.cos.mutable_data_ptr<float>(), *sin = tables.sin.mutable_data_ptr<float>();
  std::vector<float> frequencies;
  for (int64_t i = 0; i < half; ++i) frequencies.push_back(Frequency(rotary, i));
  for (int64_t position = 0; position < positions; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * frequencies[i];
      cos[position * half + i] = factor * std::cos(angle);
      sin[position * half + i] = factor * std::sin(angle);
    }
  }
  tables.device_cos = tables.cos.to(device);
  tables.device_sin = tables.sin.to(device);
  return tables;
}

}  // namespace weft
