#ifndef WEFT_CLIENT_OFFER_H_
#define WEFT_CLIENT_OFFER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/layout.h"
#include "proto/plan.pb.h"
#include "training/data/shard.h"
#include "training/trainer.h"

namespace weft {

// Can this client take part in the job? Compares base, task and label names with what it holds, lays the adapter out by
// itself and compares the hash, which is also stored in `layout_hash` once known. FAILED_PRECONDITION or what the
// trainer says: why not, with what was found, expected and what to do.
absl::StatusOr<std::shared_ptr<const Layout>> PrepareOffer(const proto::JobOffer& offer, const DataFolder& data,
                                                           Trainer* trainer, std::string* layout_hash);

}  // namespace weft

#endif  // WEFT_CLIENT_OFFER_H_
