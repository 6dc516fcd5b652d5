#ifndef WEFT_KERNELS_GROUPED_LORA_GROUPED_LORA_REFERENCE_H_
#define WEFT_KERNELS_GROUPED_LORA_GROUPED_LORA_REFERENCE_H_

// What grouped_lora.h computes, in the plainest way, with sums in double.

#include "common/half.h"
#include "kernels/grouped_lora/grouped_lora.h"

namespace weft::kernels {

inline double ReferenceValue(float value) { return value; }
inline double ReferenceValue(uint16_t bits) { return FromBf16(bits); }
inline void ReferenceStore(double value, float* to) { *to = static_cast<float>(value); }
inline void ReferenceStore(double value, uint16_t* to) { *to = ToBf16(static_cast<float>(value)); }

// Where element (j, column) of a factor lies.
template <typename T>
int64_t ReferenceIndex(const LoraRows<T>& rows, const LoraFactor& factor, int64_t j, int64_t column) {
  return rows.transposed ? column * factor.rank + j : j * rows.width + column;
}

template <typename T>
void ReferenceProject(const LoraRows<const T>& rows) {
  for (const LoraFactor& factor : rows.factors) {
    for (int64_t i = factor.begin; i < factor.end; ++i) {
      for (int64_t j = 0; j < factor.rank; ++j) {
        double sum = 0;
        for (int64_t c = 0; c < rows.width; ++c) {
          sum += ReferenceValue(rows.rows[i * rows.stride + c]) * factor.values[ReferenceIndex(rows, factor, j, c)];
        }
        factor.low[(i - factor.begin) * factor.rank + j] = static_cast<float>(rows.scale * sum);
      }
    }
  }
}

template <typename T>
void ReferenceExpand(const LoraRows<T>& rows) {
  for (const LoraFactor& factor : rows.factors) {
    for (int64_t i = factor.begin; i < factor.end; ++i) {
      for (int64_t c = 0; c < rows.width; ++c) {
        double sum = 0;
        for (int64_t j = 0; j < factor.rank; ++j) {
          sum += static_cast<double>(factor.low[(i - factor.begin) * factor.rank + j]) *
                 factor.values[ReferenceIndex(rows, factor, j, c)];
        }
        T* to = rows.rows + i * rows.stride + c;
        ReferenceStore(ReferenceValue(*to) + rows.scale * sum, to);
      }
    }
  }
}

template <typename T>
void ReferenceAddGradient(const LoraRows<const T>& rows) {
  for (const LoraFactor& factor : rows.factors) {
    if (factor.gradient == nullptr) continue;
    for (int64_t j = 0; j < factor.rank; ++j) {
      for (int64_t c = 0; c < rows.width; ++c) {
        double sum = 0;
        for (int64_t i = factor.begin; i < factor.end; ++i) {
          sum += factor.low[(i - factor.begin) * factor.rank + j] * ReferenceValue(rows.rows[i * rows.stride + c]);
        }
        float* to = factor.gradient + ReferenceIndex(rows, factor, j, c);
        *to = static_cast<float>(*to + rows.scale * sum);
      }
    }
  }
}

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_GROUPED_LORA_GROUPED_LORA_REFERENCE_H_
