#ifndef WEFT_TRAINING_MODELS_MODEL_H_
#define WEFT_TRAINING_MODELS_MODEL_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "training/data/shard.h"
#include "training/models/batch.h"
#include "training/models/frozen_linear.h"
#include "training/models/pass.h"

namespace weft {

// A base's frozen network up to its head: what the training loop sees of it. Adapters attach to its modules; no
// activation is kept and no gradient computed below the first of them. Immutable: threads may share it.
class Model {
 public:
  virtual ~Model() = default;

  // The linear modules, in groups that are computed together; every module of the base is in one.
  virtual const std::vector<FrozenLinear>& linears() const = 0;
  // Longest row in tokens; 0 where rows have no length of their own.
  virtual int64_t max_length() const = 0;
  // INVALID_ARGUMENT: the shard's rows are of another kind or size than the network reads for such a task.
  virtual absl::Status CheckShard(const DataShard& shard, const std::string& task) const = 0;
  // The given rows of shards that CheckShard takes, on the device. INVALID_ARGUMENT as in batch.h; `member` gets whose
  // row it was.
  virtual absl::StatusOr<Batch> MakeBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                          int64_t* member) const = 0;
  // The last hidden states, [places read, hidden] in the dtype that pass.dtype asks for. `linears`: linears(), or what
  // stands in their place, in their order.
  virtual at::Tensor Forward(const Batch& batch, const std::vector<FrozenLinear>& linears, Pass& pass) const = 0;
  // Bytes of activations that training keeps for each token read, in the worst case: no adapter leaves a layer out.
  virtual int64_t BytesPerToken(at::ScalarType dtype, bool checkpointing) const = 0;
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_MODEL_H_
