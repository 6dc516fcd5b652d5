#ifndef WEFT_AGGREGATORS_CORE_FACTORED_SVD_H_
#define WEFT_AGGREGATORS_CORE_FACTORED_SVD_H_

// Truncated singular value decomposition of D = sum_k w_k B_k A_k without forming it, for rules that send the best
// factors of a given rank (Bai et al., arXiv 2402.11505; Lee et al., arXiv 2505.12805, with one product).

#include <cstdint>
#include <vector>

#include "aggregators/core/factored.h"

namespace weft::aggregators {

enum class SvdMethod {
  kAuto,  // kGram where it is accurate and pays, else kQr
  kQr,
  kGram,
};

struct SvdOptions {
  int64_t rank = 0;  // of the result, 1 or more
  // Where the singular values go: into B, which leaves the rows of A orthonormal, or their square roots to both sides.
  bool split = false;
  SvdMethod method = SvdMethod::kAuto;  // tests compare the two
};

struct Svd {
  Factors factors;                      // b * a is D's best approximation of that rank
  std::vector<double> singular_values;  // of the components, descending; 0 beyond D's rank
  bool by_gram = false;
};

// Components in descending order of their singular value; the entry of largest magnitude of each row of A (the first of
// equals) is positive. A component beyond D's rank has B = 0 and as A a unit row orthogonal to the others, made of the
// clients' rows of A as long as these last: so it can be trained on. Only rows that `in` has no room for are 0.
//
// kQr: Householder QR of both stacks, SVD of the small core. Accurate to rounding relative to the largest singular
// value, whatever the others are.
// kGram: inner products of the stacks instead of QR, a symmetric eigenproblem of as many rows as there are components,
// of which only `rank` eigenvectors are computed. Several times faster. Singular values below 1e-8 of the largest would
// drown in rounding, so it is used only if the smallest one wanted is above 1e-4 of the scale (the norms of both
// Grams); its error is then below that of rounding the result to fp32. Falls back to kQr elsewhere, as kAuto does,
// which also takes kQr for fewer than 64 components.
Svd TruncatedSvd(FactorStack& stack, const SvdOptions& options);

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_FACTORED_SVD_H_
