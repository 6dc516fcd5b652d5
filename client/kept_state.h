#ifndef WEFT_CLIENT_KEPT_STATE_H_
#define WEFT_CLIENT_KEPT_STATE_H_

#include <cstdint>
#include <memory>

#include "adapters/adapter.h"

namespace weft {

// What a client keeps of a job from one round to the next it takes part in. Copies share the tensors. Null: none yet,
// which counts as zeros (error, control) or the broadcast values (local).
struct KeptState {
  // What encodings have dropped so far (error feedback, arXiv 1809.07599), of tensors that were sent: not cut to a
  // rank.
  std::shared_ptr<const Adapter> error;
  // SCAFFOLD's c_k (arXiv 1910.06378), under the names and roles of the broadcast c.
  std::shared_ptr<const Adapter> control;
  // The client's own values of Plan.roles_local.
  std::shared_ptr<const Adapter> local;
  // Components left by HetLoRA's pruning (arXiv 2401.06432); 0: all.
  int64_t rank = 0;
  // Last round whose update was accepted; 0: none.
  int64_t round = 0;

  // Nothing that another round would miss.
  bool empty() const { return error == nullptr && control == nullptr && local == nullptr && rank == 0; }
};

}  // namespace weft

#endif  // WEFT_CLIENT_KEPT_STATE_H_
