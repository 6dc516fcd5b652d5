#ifndef WEFT_TRAINING_DEVICE_H_
#define WEFT_TRAINING_DEVICE_H_

#include <c10/core/Device.h>

#include <string>

#include "absl/status/statusor.h"

namespace weft {

// "cpu", "cuda", or "auto": CUDA where it can be used, else the CPU. LibTorch's CUDA half is loaded only when asked
// for, so one binary serves both kinds of machine. FAILED_PRECONDITION: "cuda" without it, saying what is missing;
// INVALID_ARGUMENT: another word.
absl::StatusOr<c10::Device> SelectDevice(const std::string& name);

// For people: "cpu (2 threads)", "cuda:0".
std::string DescribeDevice(c10::Device device, int threads);

}  // namespace weft

#endif  // WEFT_TRAINING_DEVICE_H_
