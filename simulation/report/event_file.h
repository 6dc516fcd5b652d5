#ifndef WEFT_SIMULATION_REPORT_EVENT_FILE_H_
#define WEFT_SIMULATION_REPORT_EVENT_FILE_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace weft::simulation {

// A record as TensorFlow frames it: u64 length, the masked CRC32C of that, the bytes, their masked CRC32C.
std::string FrameRecord(std::string_view bytes);

// The first record of an event file.
std::string EventFileStart(absl::Time now);
// Scalars of one step.
std::string ScalarEvent(absl::Time now, int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_REPORT_EVENT_FILE_H_
