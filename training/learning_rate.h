#ifndef WEFT_TRAINING_LEARNING_RATE_H_
#define WEFT_TRAINING_LEARNING_RATE_H_

#include <cstdint>

#include "proto/job.pb.h"

namespace weft {

// What training.learning_rate is multiplied with at local step `step` (from 0) of `steps`: over training.warmup_steps a
// line from 0 up to 1, then training.schedule:
//   constant 1;
//   linear   (steps - step) / (steps - warmup_steps);
//   cosine   (1 + cos(pi p)) / 2 with p = (step - warmup_steps) / (steps - warmup_steps) (arXiv 1608.03983, equation
//   5).
// The values of transformers' get_{constant,linear,cosine}_schedule_with_warmup. So the first step of a warm-up moves
// nothing, and where warmup_steps >= steps the rate is never reached.
double LearningRateFactor(const proto::TrainingConfig& training, int64_t step, int64_t steps);

}  // namespace weft

#endif  // WEFT_TRAINING_LEARNING_RATE_H_
