#ifndef WEFT_TRAINING_COHORT_TENSORS_H_
#define WEFT_TRAINING_COHORT_TENSORS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "adapters/adapter.h"
#include "training/forms/form.h"
#include "training/trainer.h"

namespace weft {

// The adapters of a cohort on the device. Tensors of trained roles are views of flat buffers that hold all members, and
// so are their gradients: optimizers step over few flat tensors. The rest is constant. With a rank of its own, a
// member's LoRA factors are cut to their first components. Not thread-safe.
class CohortTensors {
 public:
  // Roles of one learning rate. Member k owns elements [offsets[k], offsets[k + 1]).
  struct Part {
    double learning_rate_scale = 1;
    at::Tensor values, gradients;  // [offsets.back()] fp32; backward passes add to gradients
    std::vector<int64_t> offsets = {0};
    at::Tensor ValuesOf(int64_t member) const { return values.slice(0, offsets[member], offsets[member + 1]); }
    at::Tensor GradientsOf(int64_t member) const { return gradients.slice(0, offsets[member], offsets[member + 1]); }
  };

  // All members' adapters are of one layout. Ranks are not over what the factors have. Scales: 1 where none is given.
  CohortTensors(std::span<const CohortMember> members, const std::set<std::string>& roles_trained,
                const std::map<std::string, double>& learning_rate_scales, at::Device device);

  const std::vector<MemberTensors>& members() const { return members_; }
  const std::vector<Part>& parts() const { return parts_; }
  // Values of `other` for the tensors that are trained, whose names and shapes are this layout's, cut likewise;
  // undefined for one it lacks. By name.
  std::map<std::string, at::Tensor> TrainedOf(int64_t member, const Adapter& other) const;
  // A member's values as an adapter of the same layout, zero beyond its rank.
  Adapter ToAdapter(int64_t member) const;

 private:
  const std::shared_ptr<const Layout> layout_;
  const at::Device device_;
  std::vector<int64_t> ranks_;
  std::vector<MemberTensors> members_;
  std::vector<Part> parts_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_COHORT_TENSORS_H_
