#ifndef WEFT_SIMULATION_STATES_STATE_LOG_H_
#define WEFT_SIMULATION_STATES_STATE_LOG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/layout.h"
#include "client/kept_state.h"

namespace weft::simulation {

// The kept states of many clients as one file to which each round appends those that have changed, and then a mark: a
// round is there when its mark is. Every record has a checksum. Once more than half of the file is old states, the next
// Append first writes the others to a new one. Read is thread-safe; the rest is for one thread, while nobody reads.
class StateLog {
 public:
  // Makes the file when there is none, and cuts off what comes after the mark of `round`: what a kill has left of the
  // next round. DATA_LOSS: damage before that, or no such mark in a log with others.
  static absl::StatusOr<std::unique_ptr<StateLog>> Open(const std::string& path, int64_t round);
  ~StateLog();
  StateLog(const StateLog&) = delete;
  StateLog& operator=(const StateLog&) = delete;

  bool Has(int64_t client) const { return places_.contains(client); }
  // The client's last state. DATA_LOSS: can't be read.
  absl::StatusOr<KeptState> Read(int64_t client) const;
  // Durable when it returns OK. RESOURCE_EXHAUSTED: disk full; nothing has changed. A log of no states stays empty.
  absl::Status Append(const std::map<int64_t, std::shared_ptr<const KeptState>>& states, int64_t round);

  int64_t clients() const { return static_cast<int64_t>(places_.size()); }
  int64_t size_bytes() const { return end_; }

 private:
  struct Place {
    int64_t offset = 0;  // of the record
    int64_t bytes = 0;
  };
  struct Record;

  StateLog(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  absl::Status Scan(int64_t round);
  absl::StatusOr<Record> ReadRecord(int64_t offset) const;
  absl::StatusOr<KeptState> Decode(std::string_view payload) const;
  // The record of a state, and before it those of layouts that the file does not have yet.
  std::string Encode(int64_t client, const KeptState& state, int64_t round, int64_t offset, Place* place);
  absl::Status Compact(int64_t round);

  const std::string path_;
  int descriptor_;
  int64_t end_ = 0;                                     // of what is committed
  int64_t live_ = 0;                                    // bytes of last states
  int64_t round_ = 0;                                   // of the last mark
  std::unordered_map<int64_t, Place> places_;           // by client
  std::vector<std::shared_ptr<const Layout>> layouts_;  // by number
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_STATES_STATE_LOG_H_
