#include "training/memory.h"

#include <malloc.h>

#include <algorithm>
#include <limits>
#include <sstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/file.h"

namespace weft {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

// "MemAvailable:   123 kB" of /proc/meminfo.
int64_t AvailableInMachine() {
  std::istringstream lines(ReadFile("/proc/meminfo").value_or(""));
  for (std::string key, unit; lines >> key;) {
    int64_t value = 0;
    lines >> value;
    if (key == "MemAvailable:") return value * 1024;
    std::getline(lines, unit);
  }
  return kUnknown;
}

int64_t NumberIn(const std::string& path) {
  int64_t value = 0;
  const std::string text = ReadFile(path).value_or("");
  return absl::SimpleAtoi(text, &value) ? value : kUnknown;  // "max": no limit
}

// What is left of the control group's limit; its page cache can be taken back.
int64_t AvailableInGroup() {
  const std::string own = ReadFile("/proc/self/cgroup").value_or("");
  for (const auto line : absl::StrSplit(own, '\n')) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3 || fields[0] != "0") continue;
    const std::string folder = absl::StrCat("/sys/fs/cgroup", fields[2] == "/" ? "" : fields[2]);
    const int64_t limit = NumberIn(folder + "/memory.max"), used = NumberIn(folder + "/memory.current");
    if (limit != kUnknown && used != kUnknown) return std::max<int64_t>(0, limit - used);
  }
  return kUnknown;
}

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

int64_t AvailableMemory() { return std::min(AvailableInMachine(), AvailableInGroup()); }

absl::Status CheckMemoryFor(const MemoryEstimate& estimate, const proto::TrainingConfig& training, int64_t limit) {
  const int64_t available = limit > 0 ? limit : AvailableMemory();
  if (estimate.total() <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "training would take ", Megabytes(estimate.total()), " (activations of ", estimate.tokens, " tokens ",
      Megabytes(estimate.activation_bytes), ", base ", Megabytes(estimate.base_bytes), ", adapters ",
      Megabytes(estimate.adapter_bytes), "), ", Megabytes(available), " are available; lower training.batch_size (",
      training.batch_size(), ") with accumulation, or training.max_length (", training.max_length(), ")",
      training.checkpointing() ? "" : ", or set training.checkpointing",
      training.compute() == "bf16" ? "" : ", or training.compute: bf16"));
}

}  // namespace weft
