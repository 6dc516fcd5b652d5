#ifndef WEFT_PRIVACY_CLIPPING_CLIP_H_
#define WEFT_PRIVACY_CLIPPING_CLIP_H_

#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"

namespace weft::privacy {

// The L2 norm, summed in double in one fixed order: the same bits on every machine (squares of fp32 are exact in
// double, so that fused multiply-add changes nothing). Within 2^-44 of the true norm, relatively. NaN or infinite when
// a value is.
double L2Norm(std::span<const float> values);

struct Clipped {
  double norm = 0;    // L2 norm before clipping
  double factor = 1;  // what every value was multiplied with; 1: nothing has changed
  bool clipped() const { return factor < 1; }
};

// Flat clipping: scales the whole delta by min(1, bound / norm), over all of its tensors together (McMahan et al.,
// "Learning differentially private recurrent language models", ICLR 2018). Afterwards the true norm of the fp32 values
// is at most `bound`, whatever their rounding: the factor is 2^-23 lower than the quotient, and a norm within 2^-44 of
// the bound counts as over it. So clipping again changes nothing, and the noise's sensitivity is `bound` itself.
//
// INVALID_ARGUMENT: a bound outside [2^-100, 2^100], or a value that is not finite (names the tensor); then nothing has
// changed. A delta of zeros stays as it is.
absl::StatusOr<Clipped> ClipToNorm(double bound, Adapter& delta);

// The same decision and factor without changing the delta.
absl::StatusOr<Clipped> ClipFactor(double bound, const Adapter& delta);

}  // namespace weft::privacy

#endif  // WEFT_PRIVACY_CLIPPING_CLIP_H_
