#ifndef WEFT_CLIENT_PRIMITIVES_H_
#define WEFT_CLIENT_PRIMITIVES_H_

// The mathematics of a plan's client primitives, each a function of tensors.

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/encoding.h"
#include "proto/plan.pb.h"

namespace weft {

// Most components of a LoRA factor of this layout; 0: it has no factor.
int64_t LargestRank(const Layout& layout);
// Sets every component from `rank` on to 0.
void KeepPrefix(int64_t rank, Adapter* adapter);

// INVALID_ARGUMENT naming the first tensor of `part` that `whole` does not have with that role and shape; `what` says
// what the part is.
absl::Status CheckPart(const Layout& part, const Layout& whole, const char* what);
// The tensors of `whole` that have one of these roles or are in `also`, in order, with the values of `also` (may be
// null) and zeros elsewhere. Null when there are none.
absl::StatusOr<std::shared_ptr<Adapter>> WithRoles(const Layout& whole, const std::set<std::string>& roles,
                                                   const Adapter* also);

// LoRA-A2 (arXiv 2410.22815): the components, of all factors in `delta`, with the highest score: the norm of the
// component's change times the norm of its partner in `start`. Of equal scores the earlier one. One flag a component,
// as in adapters/components.h; `keep` of them set.
absl::StatusOr<std::vector<bool>> StrongestComponents(const Adapter& delta, const Adapter& start, int64_t keep);

// HetLoRA (arXiv 2401.06432): the rank after a round that trained the first `rank` components. Pruned when the sum over
// all modules of |B_tail|_F |A_tail|_F has shrunk.
absl::StatusOr<int64_t> RankAfter(const proto::RankPruning& pruning, int64_t rank, const Adapter& start,
                                  const Adapter& trained);

// SCAFFOLD (arXiv 1910.06378), option II: c_k' = c_k - c + (start - trained) / (steps * eta) for the tensors of roles
// trained, eta the role's learning rate; others as in c_k. `own` is c_k; `broadcast` holds c under the same names.
std::shared_ptr<const Adapter> NextControl(const proto::Plan& plan, int64_t steps, const Adapter& own,
                                           const Adapter& broadcast, const Adapter& start, const Adapter& trained);

// False for plain f32 values.
bool IsLossy(const proto::EncodingConfig& encoding);

struct EncodedDelta {
  EncodedUpdate encoded;
  std::shared_ptr<const Adapter> clipped;  // what was encoded
};
// Encodes `delta`, scaled down so that the encoded values have at most this L2 norm (0: not scaled): what receives them
// and clips (privacy/clipping/clip.h) changes nothing. Errors as EncodedUpdate::Encode; f32 values are not checked.
absl::StatusOr<EncodedDelta> EncodeClipped(Adapter delta, double max_norm, const proto::EncodingConfig& encoding);

}  // namespace weft

#endif  // WEFT_CLIENT_PRIMITIVES_H_
