#ifndef WEFT_AGGREGATORS_CORE_FACTORED_FAIR_H_
#define WEFT_AGGREGATORS_CORE_FACTORED_FAIR_H_

// LoRA-FAIR (Bian et al., arXiv 2411.14961): with A = Abar = sum_k w_k A_k, correct Bbar = sum_k w_k B_k to an X whose
// product X Abar comes closer to D = sum_k w_k B_k A_k. With G = Abar Abar^T [r, r] and C = D Abar^T =
// sum_k w_k B_k (A_k Abar^T) [out, r], neither form needs a matrix of out x in.

#include <cstdint>

#include "aggregators/core/factored.h"

namespace weft::aggregators {

// argmin_X |D - X Abar|_F^2 + lambda |X - Bbar|_F^2 = (C + lambda Bbar)(G + lambda I)^-1; [out, r]. Where G + lambda I
// is singular to rounding, the pseudo-inverse is taken: the X of least norm. lambda >= 0.
Matrix LeastSquaresB(FactorStack& stack, double lambda);

struct CosineOptions {
  double lambda = 0.01;
  int64_t max_steps = 100;
};

struct CosineResult {
  Matrix b;  // X, [out, r]
  // cos(D, X Abar), and (1 - cos) + lambda |X - Bbar|_F, at the start X = Bbar and of the result.
  double start_cosine = 0, cosine = 0;
  double start_objective = 0, objective = 0;
  int64_t steps = 0;
};

// Minimises (1 - cos(D, X Abar)) + lambda |X - Bbar|_F by proximal gradient descent from X = Bbar: a gradient step on
// the cosine, then the penalty's exact minimiser nearby, for it has no gradient at the start. A step that does not
// lower the objective is halved until it does, so the objective never rises; steps end at max_steps, or when none gains
// more than 1e-12. All iterates have the form Bbar U_1 + C U_2, so a step works on 2r x r numbers.
//
// The cosine says nothing when D or Bbar Abar is zero: X = Bbar then.
CosineResult CosineB(FactorStack& stack, const CosineOptions& options);

// The objective at any X [out, r] other than Bbar, with its gradient. For checks.
struct CosineValue {
  double cosine = 0;
  double objective = 0;
  Matrix gradient;  // of the objective, [out, r]
};
CosineValue EvaluateCosine(FactorStack& stack, const Matrix& x, double lambda);

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_FACTORED_FAIR_H_
