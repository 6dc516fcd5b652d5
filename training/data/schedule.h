#ifndef WEFT_TRAINING_DATA_SCHEDULE_H_
#define WEFT_TRAINING_DATA_SCHEDULE_H_

// Which rows make up which step. Torch-free.

#include <cstdint>
#include <vector>

#include "common/random.h"
#include "proto/job.pb.h"

namespace weft {

// Passes over the rows of a shard, each in a new order, a uniform shuffle that depends on (seed, pass) alone, or as
// they are; cut into batches of batch_size (the last of a pass may be smaller). Batches need no grouping by length: the
// encoder packs rows without padding. Not thread-safe.
class BatchSchedule {
 public:
  // rows, batch_size >= 1.
  BatchSchedule(int64_t rows, int64_t batch_size, uint64_t seed, bool shuffle = true);

  // Row numbers of the next step. Never ends: a pass is followed by the next.
  std::vector<int64_t> Next();

 private:
  void Shuffle();

  const int64_t batch_size_;
  const bool shuffle_;
  Philox random_;
  std::vector<int64_t> order_;
  int64_t next_ = 0;
};

// Steps that `training` asks of a shard with `rows` rows: training.steps when it is set, else as many as the batches of
// its epochs make, `accumulation` of them a step; the last step is filled up from a further pass.
int64_t StepsFor(const proto::TrainingConfig& training, int64_t rows);

// Rows that those steps go through: the last batch of a pass may be smaller.
int64_t RowsFor(const proto::TrainingConfig& training, int64_t rows);

// Number of the i-th of `wanted` rows evenly spaced over `rows`; wanted <= rows.
inline int64_t EvenlySpacedRow(int64_t i, int64_t wanted, int64_t rows) { return i * rows / wanted; }

}  // namespace weft

#endif  // WEFT_TRAINING_DATA_SCHEDULE_H_
