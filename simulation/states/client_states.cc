#include "simulation/states/client_states.h"

#include <utility>

#include "absl/memory/memory.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace weft::simulation {
namespace {

int64_t BytesOf(const KeptState& state) {
  int64_t bytes = 256;  // of the maps around it
  for (const auto* part : {&state.error, &state.control, &state.local}) {
    if (*part != nullptr) bytes += (*part)->layout().size_bytes();
  }
  return bytes;
}

std::shared_ptr<const KeptState> Fresh() {
  static const auto* const fresh = new std::shared_ptr<const KeptState>(std::make_shared<const KeptState>());
  return *fresh;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ClientStates>> ClientStates::Open(const Options& options) {
  auto states = absl::WrapUnique(new ClientStates(options));
  if (options.folder.empty()) return states;
  WEFT_RETURN_IF_ERROR(MakeDirectories(options.folder));
  WEFT_ASSIGN_OR_RETURN(states->log_, StateLog::Open(options.folder + "/states.log", options.round));
  return states;
}

absl::StatusOr<std::shared_ptr<const KeptState>> ClientStates::Get(int64_t client) {
  if (const auto staged = staged_.find(client); staged != staged_.end()) return staged->second;
  if (log_ == nullptr || !log_->Has(client)) return Fresh();
  {
    MutexLock lock(mutex_);
    if (const auto found = cached_.find(client); found != cached_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second.place);
      return found->second.state;
    }
  }
  WEFT_ASSIGN_OR_RETURN(KeptState read, log_->Read(client));
  auto state = std::make_shared<const KeptState>(std::move(read));
  Remember(client, state);
  return state;
}

void ClientStates::Stage(int64_t client, KeptState state) {
  if (state.empty() && !staged_.contains(client) && (log_ == nullptr || !log_->Has(client))) return;
  staged_[client] = std::make_shared<const KeptState>(std::move(state));
}

absl::Status ClientStates::Commit(int64_t round) {
  if (log_ == nullptr) return absl::OkStatus();
  WEFT_RETURN_IF_ERROR(log_->Append(staged_, round));
  for (auto& [client, state] : std::exchange(staged_, {})) Remember(client, std::move(state));
  return absl::OkStatus();
}

void ClientStates::Remember(int64_t client, std::shared_ptr<const KeptState> state) {
  MutexLock lock(mutex_);
  const auto forget = [&](std::unordered_map<int64_t, Cached>::iterator entry) {
    cached_bytes_ -= BytesOf(*entry->second.state);
    recent_.erase(entry->second.place);
    cached_.erase(entry);
  };
  if (const auto found = cached_.find(client); found != cached_.end()) forget(found);
  recent_.push_front(client);
  cached_bytes_ += BytesOf(*state);
  cached_[client] = {std::move(state), recent_.begin()};
  while (cached_bytes_ > options_.memory_bytes && !recent_.empty()) forget(cached_.find(recent_.back()));
}

}  // namespace weft::simulation
