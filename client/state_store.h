#ifndef WEFT_CLIENT_STATE_STORE_H_
#define WEFT_CLIENT_STATE_STORE_H_

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/kept_state.h"
#include "common/mutex.h"

namespace weft {

// The kept states of one client or of thousands, by job and client: in memory, and in a folder when one is given, a
// safetensors file each, written with fsync and rename. Thread-safe.
class StateStore {
 public:
  // `folder` is made when missing; empty: memory only.
  static absl::StatusOr<std::unique_ptr<StateStore>> Open(const std::string& folder);

  // Never null: fresh when nothing is kept. A file that is damaged or another client's is reported in the log and
  // passed over; the next Put replaces it.
  std::shared_ptr<const KeptState> Get(const std::string& job_id, const std::string& client_id);
  // In memory in any case. An error: what is in the folder is older. An empty state is not written.
  absl::Status Put(const std::string& job_id, const std::string& client_id, KeptState state);
  // The job is over. Removes what no later round will ask for; files with local tensors stay, since they are the part
  // of the model that nobody else has.
  void EndJob(const std::string& job_id);

 private:
  using Key = std::pair<std::string, std::string>;  // job, client

  explicit StateStore(std::string folder) : folder_(std::move(folder)) {}

  const std::string folder_;
  Mutex mutex_;
  std::map<Key, std::shared_ptr<const KeptState>> states_;
};

}  // namespace weft

#endif  // WEFT_CLIENT_STATE_STORE_H_
