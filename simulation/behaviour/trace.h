#ifndef WEFT_SIMULATION_BEHAVIOUR_TRACE_H_
#define WEFT_SIMULATION_BEHAVIOUR_TRACE_H_

// What was measured of real devices, from CSV files. A client that the trace names behaves as it says; to all others
// its clients are dealt in turn: client i behaves like the i-th of the trace, modulo their number.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace weft::simulation {

// The client of that name; nothing: there is none.
using FindClient = std::function<std::optional<int64_t>(const std::string& name)>;

// Which client of a trace each one behaves like.
class TracePlaces {
 public:
  // Of the next client of the trace.
  void Add(std::optional<int64_t> client) {
    if (client.has_value()) named_.emplace(*client, size_);
    ++size_;
  }
  size_t Of(int64_t client) const {
    const auto named = named_.find(client);
    return named != named_.end() ? named->second : static_cast<size_t>(client) % size_;
  }

 private:
  size_t size_ = 0;
  std::unordered_map<int64_t, size_t> named_;
};

// Lines "client,rows_per_second".
class SpeedTrace {
 public:
  // NOT_FOUND: no file. INVALID_ARGUMENT "file:line: found, expected": another header, a number of columns or a speed
  // that is none, a client a second time, no client.
  static absl::StatusOr<SpeedTrace> Read(const std::string& path, const FindClient& find);
  double RowsPerSecond(int64_t client) const { return speeds_[places_.Of(client)]; }

 private:
  TracePlaces places_;
  std::vector<double> speeds_;
};

// Lines "client,from,until" in seconds; a client may have many. The trace is as long as its last `until`, and then
// begins again.
class AvailabilityTrace {
 public:
  // Errors as above, also `until` not after `from`, and stays of a client that overlap.
  static absl::StatusOr<AvailabilityTrace> Read(const std::string& path, const FindClient& find);

  // When the stay of the client at `now` ends; `now` when it is not there. Stays that touch are one; InfiniteDuration
  // when it is always there.
  absl::Duration EndOfStay(int64_t client, absl::Duration now) const;
  // When it is there again, at the earliest now.
  absl::Duration NextArrival(int64_t client, absl::Duration now) const;

 private:
  using Stays = std::vector<std::pair<absl::Duration, absl::Duration>>;  // from, until; ascending
  const Stays& StaysOf(int64_t client) const { return clients_[places_.Of(client)]; }

  TracePlaces places_;
  std::vector<Stays> clients_;
  absl::Duration length_;
};

// A line for each round: names of clients with commas between.
class CohortTrace {
 public:
  // NOT_FOUND: no file. INVALID_ARGUMENT "file:line": a name that is empty or there twice.
  static absl::StatusOr<CohortTrace> Read(const std::string& path);
  // Ascending. Null: the trace does not reach so far.
  const std::vector<std::string>* Of(int64_t round) const {
    return round <= static_cast<int64_t>(cohorts_.size()) ? &cohorts_[round - 1] : nullptr;
  }
  const std::vector<std::vector<std::string>>& cohorts() const { return cohorts_; }

 private:
  std::vector<std::vector<std::string>> cohorts_;
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_BEHAVIOUR_TRACE_H_
