#include "training/memory.h"

#include <malloc.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/available_memory.h"

namespace weft {
namespace {

std::string Megabytes(int64_t bytes) { return absl::StrFormat("%d MB", (bytes + (1 << 20) - 1) >> 20); }

}  // namespace

void KeepFreedMemory() {
#if defined(__GLIBC__)
  constexpr int kGigabyte = 1 << 30;
  mallopt(M_MMAP_MAX, 0);  // one heap for all sizes
  mallopt(M_TRIM_THRESHOLD, kGigabyte);
  mallopt(M_TOP_PAD, kGigabyte >> 4);
  mallopt(M_ARENA_MAX,
          8);  // few, as each keeps what it once held; not one, which trainers side by side would queue for
#endif
}

absl::Status CheckMemoryFor(const MemoryEstimate& estimate, const proto::TrainingConfig& training, int64_t limit) {
  const int64_t available = limit > 0 ? limit : AvailableMemory();
  if (estimate.total() <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "training would take ", Megabytes(estimate.total()),
      estimate.calls > 1 ? absl::StrCat(" in ", estimate.calls, " threads") : "", " (activations of ", estimate.tokens,
      " tokens ", Megabytes(estimate.activation_bytes), ", base ", Megabytes(estimate.base_bytes), ", adapters ",
      Megabytes(estimate.adapter_bytes), "), ", Megabytes(available), " are available; lower training.batch_size (",
      training.batch_size(), ") with accumulation, or training.max_length (", training.max_length(), ")",
      estimate.calls > 1 ? ", or the threads" : "", training.checkpointing() ? "" : ", or set training.checkpointing",
      training.compute() == "bf16" ? "" : ", or training.compute: bf16"));
}

}  // namespace weft
