#ifndef WEFT_COMMON_LARGE_PAGES_H_
#define WEFT_COMMON_LARGE_PAGES_H_

#include <cstddef>

namespace weft {

// Asks for large pages for memory that was allocated and not written yet. The kernel clears memory at its first write,
// and in pages of 4 KB that takes three times as long as in pages of 2 MB. Has no effect on small blocks, nor on
// systems without large pages.
void AdviseLargePages(void* data, size_t bytes);

}  // namespace weft

#endif  // WEFT_COMMON_LARGE_PAGES_H_
