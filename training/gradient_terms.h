#ifndef WEFT_TRAINING_GRADIENT_TERMS_H_
#define WEFT_TRAINING_GRADIENT_TERMS_H_

#include <ATen/core/Tensor.h>

#include <vector>

#include "proto/plan.pb.h"
#include "training/cohort_tensors.h"
#include "training/trainer.h"

namespace weft {

// What plan and member add to the gradient of a step, beside the loss:
//   proximal term (FedProx, arXiv 1812.06127, equation 2): mu (w - w_start);
//   control (SCAFFOLD, arXiv 1910.06378, equation 3): c - c_k;
//   rank pruning (HetLoRA, arXiv 2401.06432): the gradient of lambda |B_tail|_F |A_tail|_F over the components from
//   gamma * rank on.
// Shares the cohort's tensors; the plan is checked.
class GradientTerms {
 public:
  GradientTerms(const proto::Plan& plan, const CohortMember& member, int64_t index, const CohortTensors& cohort);
  // At the adapter's values as they are. Outside autograd.
  void Add();

 private:
  struct Term {
    at::Tensor value, gradient;
    at::Tensor start;    // undefined without a proximal term
    at::Tensor control;  // undefined without one
  };
  // One factor beyond the kept components: views of its values, and of its gradient when it is trained.
  struct Tail {
    at::Tensor values, gradient;
  };
  struct TailPair {
    Tail a, b;
  };

  const double proximal_mu_;
  std::vector<Term> terms_;
  double lambda_ = 0;
  std::vector<TailPair> tails_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_GRADIENT_TERMS_H_
