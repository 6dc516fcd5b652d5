#ifndef WEFT_COMMON_AVAILABLE_MEMORY_H_
#define WEFT_COMMON_AVAILABLE_MEMORY_H_

#include <cstdint>

namespace weft {

// Bytes of memory that this process may still take: the machine's, or its control group's where that is less.
int64_t AvailableMemory();

}  // namespace weft

#endif  // WEFT_COMMON_AVAILABLE_MEMORY_H_
