#include "training/models/mlp.h"

#include <ATen/ops/relu.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace weft {

absl::StatusOr<std::unique_ptr<Mlp>> Mlp::Create(const BaseDescription& base, const BaseWeights& weights,
                                                 at::Device device) {
  std::unique_ptr<Mlp> mlp(new Mlp(device));
  for (const LinearModule& module : base.linears) {
    WEFT_ASSIGN_OR_RETURN(at::Tensor weight,
                          weights.Get("", module.name + ".weight", {module.out_features, module.in_features}, device));
    WEFT_ASSIGN_OR_RETURN(at::Tensor bias, weights.Get("", module.name + ".bias", {module.out_features}, device));
    mlp->linears_.emplace_back(module.name, std::move(weight), std::move(bias));
  }
  return mlp;
}

absl::Status Mlp::CheckShard(const DataShard& shard) const {
  const int64_t width = linears_.front().in_features();
  if (shard.width() == width) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(shard.width() == 0 ? "rows of tokens" : absl::StrCat("rows of ", shard.width(), " features"),
                   ", the base reads ", width, " features; use data made for this base"));
}

absl::StatusOr<Batch> Mlp::MakeBatch(const DataShard& shard, std::span<const int64_t> rows, int64_t,
                                     int64_t num_labels) const {
  return GatherRows(shard, rows, num_labels, device_);
}

at::Tensor Mlp::Forward(const Batch& batch, const std::vector<FrozenLinear>& linears, const AttachedForm& form,
                        DropoutSource& dropout) const {
  at::Tensor x = batch.features;
  for (size_t i = 0; i < linears.size(); ++i) x = RunLinear(i, x, linears, form, dropout).relu_();
  return x;
}

}  // namespace weft
