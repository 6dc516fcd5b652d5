#include "simulation/run/peak_memory.h"

#include <fstream>
#include <sstream>
#include <string>

namespace weft::simulation {

int64_t PeakMemory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream words(line);
    std::string key;
    int64_t kilobytes = 0;
    if (words >> key >> kilobytes && key == "VmHWM:") return kilobytes * 1024;
  }
  return 0;
}

void ResetPeakMemory() { std::ofstream("/proc/self/clear_refs") << "5\n"; }

}  // namespace weft::simulation
