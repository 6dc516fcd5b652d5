#include "kernels/grouped_lora/grouped_lora.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weft::kernels {
namespace {

#define WEFT_KERNELS "kernels/grouped_lora/grouped_lora.inc"
#include "kernels/norm/targets.inc"

}  // namespace

int64_t LoraRowBlocks(std::span<const LoraFactor> factors) {
  int64_t count = 0;
  for (const LoraFactor& factor : factors) count += baseline::RowBlocksOf(factor);
  return count;
}

int64_t LoraColumnPanels(std::span<const LoraFactor> factors, int64_t width) {
  int64_t count = 0;
  for (const LoraFactor& factor : factors) count += baseline::PanelsOf(factor, width);
  return count;
}

template <typename T>
void LoraProject(const LoraRows<const T>& rows, int64_t begin, int64_t end) {
  WEFT_CALL_BEST(Project<T>, rows, begin, end);
}

template <typename T>
void LoraExpand(const LoraRows<T>& rows, int64_t begin, int64_t end) {
  WEFT_CALL_BEST(Expand<T>, rows, begin, end);
}

template <typename T>
void LoraAddGradient(const LoraRows<const T>& rows, int64_t begin, int64_t end) {
  WEFT_CALL_BEST(AddGradient<T>, rows, begin, end);
}

template void LoraProject(const LoraRows<const float>&, int64_t, int64_t);
template void LoraProject(const LoraRows<const uint16_t>&, int64_t, int64_t);
template void LoraExpand(const LoraRows<float>&, int64_t, int64_t);
template void LoraExpand(const LoraRows<uint16_t>&, int64_t, int64_t);
template void LoraAddGradient(const LoraRows<const float>&, int64_t, int64_t);
template void LoraAddGradient(const LoraRows<const uint16_t>&, int64_t, int64_t);

}  // namespace weft::kernels
