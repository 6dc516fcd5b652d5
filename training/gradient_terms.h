#ifndef WEFT_TRAINING_GRADIENT_TERMS_H_
#define WEFT_TRAINING_GRADIENT_TERMS_H_

#include <ATen/core/Tensor.h>

#include <vector>

#include "proto/plan.pb.h"
#include "training/adapter_tensors.h"
#include "training/trainer.h"

namespace weft {

// What plan and member add to the gradient of the loss: FedProx's mu (w - w_start) (arXiv 1812.06127, equation 2),
// SCAFFOLD's correction, and the gradient of HetLoRA's lambda |B_tail|_F |A_tail|_F (arXiv 2401.06432, equation 4) per
// module, zero where a norm is. Refers to the adapter's tensors; the plan is checked.
class GradientTerms {
 public:
  GradientTerms(const proto::Plan& plan, const CohortMember& member, AdapterTensors& adapter);
  // At the adapter's values as they are. Outside autograd.
  void Add();

 private:
  // One factor beyond the kept components: views of its values, and of its gradient when it is trained.
  struct Tail {
    at::Tensor values, gradient;
  };
  struct TailPair {
    Tail a, b;
  };

  AdapterTensors& adapter_;
  const double proximal_mu_;
  at::Tensor start_, difference_;  // [trained elements]; undefined without a proximal term
  at::Tensor control_;             // [trained elements]; undefined without one
  double lambda_ = 0;
  std::vector<TailPair> tails_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_GRADIENT_TERMS_H_
