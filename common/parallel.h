#ifndef WEFT_COMMON_PARALLEL_H_
#define WEFT_COMMON_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace weft {

// Cuts [0, count) into ranges, which depend on `count` and `threads` alone, and calls body(begin, end) once for each,
// on the caller and up to threads - 1 threads of a pool that the process keeps. Returns when all are done. The caller
// works too, so that calls from several threads, or from inside a body, never wait for each other's workers. `body`
// must not throw.
void ParallelFor(int threads, int64_t count, const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace weft

#endif  // WEFT_COMMON_PARALLEL_H_
