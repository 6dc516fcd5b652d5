#ifndef WEFT_TRAINING_FORMS_GROUPED_FACTORS_H_
#define WEFT_TRAINING_FORMS_GROUPED_FACTORS_H_

// Products of the rows of a cohort with thin factors, one of each member: kernels/grouped_lora on the CPU, ATen's
// operators per member elsewhere (where factors are rounded to the dtype of the rows, whose products add up in fp32).

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "training/forms/form.h"
#include "training/ops/segments.h"

namespace weft {

// A factor M of each member, of a rank of its own: [rank, width], or M^T [width, rank] where transposed. fp32.
struct GroupedFactor {
  std::vector<MemberTensor> members;
  bool transposed = false;

  int64_t rank(int64_t member) const { return members[member].value.size(transposed ? 1 : 0); }
  int64_t width() const { return members.front().value.size(transposed ? 0 : 1); }
  bool IsTrained() const;  // of any member
};

// A wide matrix [n, width], fp32 or bf16, stride(1) 1, and the factor of those who own its rows.
struct FactorRows {
  const GroupedFactor* factor;
  at::Tensor rows;
  double scale = 1;
};

// Room for the low-rank rows of all members: fp32 [sum of rows * rank], member after member; zeros if wished.
at::Tensor NewLow(const GroupedFactor& factor, const Segments& segments, at::Device device, bool zeros = false);

// What the products go through: the CPU's kernel and ATen's operators are checked against each other.
enum class ProductPath { kBest, kAten };

// low = from.scale * from.rows M^T, then to.rows += to.scale * low M. Either may be left out.
void ProjectAndExpand(const Segments& segments, const std::optional<FactorRows>& from, const at::Tensor& low,
                      const std::optional<FactorRows>& to, ProductPath path = ProductPath::kBest);

// gradient of M += scale * low^T rows, where it is wanted.
struct FactorGradient {
  FactorRows of;
  at::Tensor low;
};
void AddGradients(const Segments& segments, std::span<const FactorGradient> gradients,
                  ProductPath path = ProductPath::kBest);

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_GROUPED_FACTORS_H_
