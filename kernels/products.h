#ifndef WEFT_KERNELS_PRODUCTS_H_
#define WEFT_KERNELS_PRODUCTS_H_

// Products with stacks of long fp32 vectors, in fp64: what the algebra of low-rank factors is made of. Raw pointers, no
// checks; a thread keeps its packing buffers. Matrices are row-major.
//
// Every sum runs in the order of its index, in blocks whose bounds do not depend on the CPU, and no product is rounded
// together with an addition: so the same bits on every SIMD target.

#include <cstdint>

namespace weft::kernels {

// Value d of vector j is data[j][d * strides[j]].
struct VectorStack {
  const float* const* data = nullptr;
  const int64_t* strides = nullptr;
  int64_t count = 0;
  int64_t length = 0;
};

// gram[i, j] = sum over d of x_i[d] x_j[d]; [count, count], both halves.
void Gram(const VectorStack& x, double* gram);

// out[c, d] = sum over j of w[j, c] x_j[d]; w is [count, columns], out [columns, length].
void CombineToRows(const VectorStack& x, const double* w, int64_t columns, double* out);
// The same, transposed: out is [length, columns].
void CombineToColumns(const VectorStack& x, const double* w, int64_t columns, double* out);

// out[m, n] = sum over k of a[k, m] b[k, n].
void TransposedProduct(const double* a, const double* b, int64_t k, int64_t m, int64_t n, double* out);
// The same for a result that is known to be symmetric, [n, n]: half the work, and exactly symmetric.
void SymmetricTransposedProduct(const double* a, const double* b, int64_t k, int64_t n, double* out);

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_PRODUCTS_H_
