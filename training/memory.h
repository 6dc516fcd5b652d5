#ifndef WEFT_TRAINING_MEMORY_H_
#define WEFT_TRAINING_MEMORY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "proto/job.pb.h"

namespace weft {

// What training is about to take, at most, in bytes.
struct MemoryEstimate {
  int64_t base_bytes = 0;  // weights that are still to be laid out for products
  int64_t tokens = 0;      // of one pass
  int64_t calls = 1;       // side by side
  int64_t activation_bytes = 0;
  int64_t adapter_bytes = 0;  // values, gradients, moments and results of all members
  int64_t total() const { return base_bytes + calls * (activation_bytes + adapter_bytes); }
};

// Has the C library keep memory that is freed: a step's tensors would otherwise be returned to the system and come back
// as fresh, zeroed pages, tens of thousands of them a step (a quarter of the time of a cohort's pass in bf16). For the
// whole process, from now on. Does nothing where the C library is not glibc.
void KeepFreedMemory();

// RESOURCE_EXHAUSTED with the estimate, what there is, and what to lower. limit: bytes that may be taken; 0:
// AvailableMemory.
absl::Status CheckMemoryFor(const MemoryEstimate& estimate, const proto::TrainingConfig& training, int64_t limit);

}  // namespace weft

#endif  // WEFT_TRAINING_MEMORY_H_
