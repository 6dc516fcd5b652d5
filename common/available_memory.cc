#include "common/available_memory.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
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

}  // namespace

int64_t AvailableMemory() { return std::min(AvailableInMachine(), AvailableInGroup()); }

}  // namespace weft
