#ifndef WEFT_SERVER_EXPORT_EXPORT_ADAPTER_H_
#define WEFT_SERVER_EXPORT_EXPORT_ADAPTER_H_

// What a job exports when its rule has changed the base of the clients (FLoRA, arXiv 2409.05976; FedEx-LoRA, arXiv
// 2410.09432): whoever takes the adapter has the base as it was before the job.

#include <span>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/base.h"
#include "proto/job.pb.h"

namespace weft::server {

// One LoRA adapter that stands for `adapter` and the steps before it: per module
//   B A + sum_t base_b_t base_a_t = [B base_b_1 base_b_2 ...] [A; base_a_1; base_a_2; ...],
// without any rounding; the module's scale, common to all, stays outside. Where that rank passes min(in, out), the
// product itself is one factor, summed in double and rounded once, and the identity the other. All modules get the rank
// of the largest, filled up with zeros. A step's tensors are "<module>.base_A.weight" [R, in] of role base_a and
// "<module>.base_B.weight" [out, R] of role base_b. INVALID_ARGUMENT naming the tensor: no pair, another shape, or a
// module that the adapter does not have.
absl::StatusOr<Adapter> WithBaseSteps(const Adapter& adapter, std::span<const Adapter> steps);

// The adapter of a job as exported, and in `config` the form's config that it needs (Form::WithRank): the scale of each
// module stays what it was. Without steps nothing changes.
absl::StatusOr<Adapter> ExportAdapter(Adapter adapter, std::span<const Adapter> steps, const BaseDescription& base,
                                      proto::JobConfig* config);

}  // namespace weft::server

#endif  // WEFT_SERVER_EXPORT_EXPORT_ADAPTER_H_
