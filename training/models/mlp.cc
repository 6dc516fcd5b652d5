#include "training/models/mlp.h"

#include <ATen/ops/relu.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace weft {

absl::StatusOr<std::unique_ptr<Mlp>> Mlp::Create(const BaseDescription& base, BaseWeights& weights, at::Device device) {
  std::unique_ptr<Mlp> mlp(new Mlp(device));
  for (size_t i = 0; i < base.linears.size(); ++i) {
    const LinearModule& module = base.linears[i];
    FrozenLinear::Part part{.module = i, .weight = {}, .bias = {}};
    WEFT_ASSIGN_OR_RETURN(part.weight,
                          weights.Take(module.name + ".weight", {module.out_features, module.in_features}));
    WEFT_ASSIGN_OR_RETURN(part.bias, weights.Take(module.name + ".bias", {module.out_features}));
    mlp->linears_.push_back(FrozenLinear({std::move(part)}, device));
  }
  return mlp;
}

absl::Status Mlp::CheckShard(const DataShard& shard, const std::string&) const {
  const int64_t width = linears_.front().in_features();
  if (shard.kind() == RowKind::kFeatures && shard.width() == width) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(shard.Describe(), ", the base reads ", width, " features; use data made for this base"));
}

absl::StatusOr<Batch> Mlp::MakeBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                     int64_t* member) const {
  return MakeFeatureBatch(members, options, device_, member);
}

at::Tensor Mlp::Forward(const Batch& batch, const std::vector<FrozenLinear>& linears, Pass& pass) const {
  at::Tensor x = batch.features.to(pass.dtype());
  for (const FrozenLinear& linear : linears) x = pass.Linear(linear, x, batch.rows).relu();
  return x;
}

int64_t Mlp::BytesPerToken(at::ScalarType dtype, bool) const {
  int64_t elements = 0;
  for (const FrozenLinear& linear : linears_) elements += linear.in_features() + 2 * linear.out_features();
  return elements * static_cast<int64_t>(c10::elementSize(dtype));
}

}  // namespace weft
