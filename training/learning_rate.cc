#include "training/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace weft {

double LearningRateFactor(const proto::TrainingConfig& training, int64_t step, int64_t steps) {
  const int64_t warmup = training.warmup_steps();
  if (step < warmup) return static_cast<double>(step) / static_cast<double>(warmup);
  const double passed = static_cast<double>(step - warmup) / static_cast<double>(std::max<int64_t>(1, steps - warmup));
  if (training.schedule() == "linear") return std::max(0.0, 1 - passed);
  if (training.schedule() == "cosine") return std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * passed)));
  return 1;
}

}  // namespace weft
