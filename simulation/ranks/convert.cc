#include "simulation/ranks/convert.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace weft::simulation {
namespace {

absl::Status Read(const Tensors& message, bool there, std::shared_ptr<const Adapter>* to) {
  if (!there) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(*to, FromMessage(message));
  return absl::OkStatus();
}

}  // namespace

void ToMessage(const Adapter& adapter, Tensors* message) {
  *message->mutable_layout() = adapter.layout().ToProto();
  message->set_values(adapter.bytes().data(), adapter.bytes().size());
}

void ToMessage(const KeptState& state, Kept* message) {
  if (state.error != nullptr) ToMessage(*state.error, message->mutable_error());
  if (state.control != nullptr) ToMessage(*state.control, message->mutable_control());
  if (state.local != nullptr) ToMessage(*state.local, message->mutable_local());
  message->set_rank(state.rank);
  message->set_round(state.round);
}

absl::StatusOr<std::shared_ptr<const Adapter>> FromMessage(const Tensors& message) {
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> layout, Layout::FromProto(message.layout()));
  auto adapter = std::make_shared<Adapter>(layout);
  if (message.values().size() != adapter->bytes().size()) return absl::InternalError("tensors of another size");
  std::memcpy(adapter->mutable_bytes().data(), message.values().data(), message.values().size());
  return adapter;
}

absl::StatusOr<std::shared_ptr<const KeptState>> FromMessage(const Kept& message) {
  auto state = std::make_shared<KeptState>();
  WEFT_RETURN_IF_ERROR(Read(message.error(), message.has_error(), &state->error));
  WEFT_RETURN_IF_ERROR(Read(message.control(), message.has_control(), &state->control));
  WEFT_RETURN_IF_ERROR(Read(message.local(), message.has_local(), &state->local));
  state->rank = message.rank();
  state->round = message.round();
  return state;
}

absl::StatusOr<std::string> ToBytes(const google::protobuf::MessageLite& message) {
  if (const size_t size = message.ByteSizeLong(); size > std::numeric_limits<int32_t>::max()) {
    return absl::ResourceExhaustedError(absl::StrCat("a message between ranks of ", size,
                                                     " bytes, expected at most 2^31 - 1; lower "
                                                     "run.tokens_per_pass or the adapter's rank"));
  }
  return message.SerializeAsString();
}

absl::Status StatusOf(int code, const std::string& message) { return {static_cast<absl::StatusCode>(code), message}; }

}  // namespace weft::simulation
