#ifndef WEFT_SIMULATION_RANKS_CONVERT_H_
#define WEFT_SIMULATION_RANKS_CONVERT_H_

#include <google/protobuf/message_lite.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "client/kept_state.h"
#include "simulation/ranks/messages.pb.h"

namespace weft::simulation {

void ToMessage(const Adapter& adapter, Tensors* message);
void ToMessage(const KeptState& state, Kept* message);
// INTERNAL: not what ToMessage has made.
absl::StatusOr<std::shared_ptr<const Adapter>> FromMessage(const Tensors& message);
absl::StatusOr<std::shared_ptr<const KeptState>> FromMessage(const Kept& message);
absl::Status StatusOf(int code, const std::string& message);
// RESOURCE_EXHAUSTED: longer than a message can be.
absl::StatusOr<std::string> ToBytes(const google::protobuf::MessageLite& message);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_RANKS_CONVERT_H_
