#include "common/large_pages.h"

#include <sys/mman.h>

#include <cstdint>

namespace weft {

void AdviseLargePages(void* data, size_t bytes) {
  constexpr uintptr_t kPage = 4096;
  constexpr size_t kWorthwhile = size_t{4} << 20;
  if (bytes < kWorthwhile) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace weft
