#include "training/data/schedule.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace weft {

BatchSchedule::BatchSchedule(int64_t rows, int64_t batch_size, uint64_t seed, bool shuffle)
    : batch_size_(batch_size), shuffle_(shuffle), random_(seed, StreamId("shuffle")), order_(rows) {
  std::iota(order_.begin(), order_.end(), 0);
  Shuffle();
}

std::vector<int64_t> BatchSchedule::Next() {
  if (next_ == static_cast<int64_t>(order_.size())) {
    Shuffle();
    next_ = 0;
  }
  const int64_t end = std::min<int64_t>(next_ + batch_size_, order_.size());
  std::vector<int64_t> rows(order_.begin() + next_, order_.begin() + end);
  next_ = end;
  return rows;
}

// Fisher-Yates; std::shuffle differs between standard libraries.
void BatchSchedule::Shuffle() {
  if (!shuffle_) return;
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random_.NextBelow(i)]);
}

int64_t StepsFor(const proto::TrainingConfig& training, int64_t rows) {
  if (training.steps() > 0) return training.steps();
  const int64_t batches = training.epochs() * ((rows + training.batch_size() - 1) / training.batch_size());
  const int64_t accumulation = std::max<int64_t>(training.accumulation(), 1);
  return (batches + accumulation - 1) / accumulation;
}

int64_t RowsFor(const proto::TrainingConfig& training, int64_t rows) {
  const int64_t pass = (rows + training.batch_size() - 1) / training.batch_size();  // batches
  const int64_t batches = StepsFor(training, rows) * std::max<int64_t>(training.accumulation(), 1);
  return batches / pass * rows + batches % pass * training.batch_size();
}

}  // namespace weft
