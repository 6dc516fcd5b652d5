#ifndef WEFT_TRAINING_MODELS_MLP_H_
#define WEFT_TRAINING_MODELS_MLP_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "training/models/model.h"
#include "training/models/weights.h"

namespace weft {

// The multilayer perceptron of adapters/families/mlp: linear modules with relu after each, over rows of features.
class Mlp : public Model {
 public:
  // `weights` must outlive it. INVALID_ARGUMENT as BaseWeights::Get.
  static absl::StatusOr<std::unique_ptr<Mlp>> Create(const BaseDescription& base, BaseWeights& weights,
                                                     at::Device device);

  const std::vector<FrozenLinear>& linears() const override { return linears_; }
  int64_t max_length() const override { return 0; }
  absl::Status CheckShard(const DataShard& shard, const std::string& task) const override;
  absl::StatusOr<Batch> MakeBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                  int64_t* member) const override;
  at::Tensor Forward(const Batch& batch, const std::vector<FrozenLinear>& linears, Pass& pass) const override;
  int64_t BytesPerToken(at::ScalarType dtype, bool checkpointing) const override;

 private:
  explicit Mlp(at::Device device) : device_(device) {}

  const at::Device device_;
  std::vector<FrozenLinear> linears_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_MLP_H_
