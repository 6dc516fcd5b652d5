#ifndef WEFT_KERNELS_ATTENTION_ATTENTION_REFERENCE_H_
#define WEFT_KERNELS_ATTENTION_ATTENTION_REFERENCE_H_

#include <vector>

#include "kernels/attention/attention.h"

namespace weft::kernels {

// Attention and its gradients one product after the other in fp64, as the formulas are written: what the kernels are
// checked against.
struct AttentionReference {
  std::vector<double> out;                           // [queries, heads * head_dim]
  std::vector<double> query_gradient;                // likewise
  std::vector<double> key_gradient, value_gradient;  // [keys, key_heads * head_dim]
};

// Gradients are for that of out, [queries, heads * head_dim].
AttentionReference ComputeAttentionReference(const AttentionProblem& problem, const AttentionInputs<double>& in,
                                             const std::vector<double>& out_gradient);

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_ATTENTION_ATTENTION_REFERENCE_H_
