#include "client/state_store.h"

#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "client/state_file.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace weft {
namespace {

std::string PathOf(const std::string& folder, const std::string& job_id, const std::string& client_id) {
  return absl::StrCat(folder, "/", StateFileName(job_id, client_id));
}

}  // namespace

absl::StatusOr<std::unique_ptr<StateStore>> StateStore::Open(const std::string& folder) {
  if (!folder.empty()) WEFT_RETURN_IF_ERROR(MakeDirectories(folder));
  return absl::WrapUnique(new StateStore(folder));
}

std::shared_ptr<const KeptState> StateStore::Get(const std::string& job_id, const std::string& client_id) {
  MutexLock lock(mutex_);
  std::shared_ptr<const KeptState>& state = states_[Key(job_id, client_id)];
  if (state != nullptr) return state;
  absl::StatusOr<KeptState> read = KeptState();
  if (!folder_.empty()) read = ReadStateFile(PathOf(folder_, job_id, client_id), job_id, client_id);
  if (!read.ok() && !absl::IsNotFound(read.status())) {
    Logger("client")->error("event=kept_state_dropped job={} client={} action=\"starts fresh\" reason=\"{}\"", job_id,
                            client_id, std::string(read.status().message()));
  }
  state = std::make_shared<const KeptState>(read.ok() ? *std::move(read) : KeptState());
  return state;
}

absl::Status StateStore::Put(const std::string& job_id, const std::string& client_id, KeptState state) {
  auto kept = std::make_shared<const KeptState>(std::move(state));
  {
    MutexLock lock(mutex_);
    states_[Key(job_id, client_id)] = kept;
  }
  if (folder_.empty() || kept->empty()) return absl::OkStatus();
  return WriteStateFile(PathOf(folder_, job_id, client_id), job_id, client_id, *kept);
}

void StateStore::EndJob(const std::string& job_id) {
  {
    MutexLock lock(mutex_);
    std::erase_if(states_, [&](const auto& entry) { return entry.first.first == job_id; });
  }
  if (folder_.empty()) return;
  const std::string prefix = StateFilePrefix(job_id);
  std::error_code error;
  std::vector<std::filesystem::path> over;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    if (!HoldsLocalTensors(entry.path().string())) over.push_back(entry.path());
  }
  for (const std::filesystem::path& path : over) std::filesystem::remove(path, error);  // what stays does no harm
}

}  // namespace weft
