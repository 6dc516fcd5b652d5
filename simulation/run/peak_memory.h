#ifndef WEFT_SIMULATION_RUN_PEAK_MEMORY_H_
#define WEFT_SIMULATION_RUN_PEAK_MEMORY_H_

#include <cstdint>

namespace weft::simulation {

// Most bytes that this process has had resident since ResetPeakMemory, which does nothing where the kernel forbids it;
// 0: unknown.
int64_t PeakMemory();
void ResetPeakMemory();

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_RUN_PEAK_MEMORY_H_
