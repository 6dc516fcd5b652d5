#ifndef WEFT_TRAINING_FORMS_MEMBER_DROPOUT_H_
#define WEFT_TRAINING_FORMS_MEMBER_DROPOUT_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "training/forms/form.h"
#include "training/ops/segments.h"

namespace weft {

// Dropout at one place of a network, for the rows of a cohort. What is kept is a function of the member's seed, the
// step, the place, the row within the member's and the column alone (kernels/dropout), so it is never stored. Masks are
// made on the CPU, and copied to where they are wanted.
class MemberDropout {
 public:
  // `place` names it, so that no two drop alike. rate in [0, 1): share that is dropped.
  MemberDropout(std::string_view place, double rate);

  double rate() const { return rate_; }

  // x [n, width] fp32 or bf16, contiguous -> a new one: zero, or x / (1 - rate). Rows that are nobody's: zero. Outside
  // autograd.
  at::Tensor Dropped(const at::Tensor& x, const Segments& segments, const PassRandom& random) const;
  // to += the same of x, which is fp32.
  void AddDropped(const at::Tensor& x, const Segments& segments, const PassRandom& random, at::Tensor& to) const;
  // [rows, width] fp32 on the CPU: what multiplies rows [first, first + rows) of one member.
  at::Tensor Factors(int64_t member, const PassRandom& random, int64_t first, int64_t rows, int64_t width) const;

 private:
  at::Tensor FactorsOf(const Segments& segments, const PassRandom& random, const at::Tensor& x) const;

  uint64_t stream_;
  double rate_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_MEMBER_DROPOUT_H_
