#ifndef WEFT_SIMULATION_BEHAVIOUR_TRACE_H_
#define WEFT_SIMULATION_BEHAVIOUR_TRACE_H_

// What was measured of real devices, from CSV files. The trace's clients are dealt to those of a population in turn:
// client i behaves like the i-th of the trace, modulo their number.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace weft::simulation {

// Lines "client,rows_per_second".
class SpeedTrace {
 public:
  // NOT_FOUND: no file. INVALID_ARGUMENT "file:line: found, expected": another header, a number of columns or a speed
  // that is none, a client a second time, no client.
  static absl::StatusOr<SpeedTrace> Read(const std::string& path);
  double RowsPerSecond(int64_t client) const { return speeds_[client % static_cast<int64_t>(speeds_.size())]; }

 private:
  std::vector<double> speeds_;
};

// Lines "client,from,until" in seconds; a client may have many. The trace is as long as its last `until`, and then
// begins again.
class AvailabilityTrace {
 public:
  // Errors as above, also `until` not after `from`, and stays of a client that overlap.
  static absl::StatusOr<AvailabilityTrace> Read(const std::string& path);

  // When the stay of the client at `now` ends; `now` when it is not there. Stays that touch are one; InfiniteDuration
  // when it is always there.
  absl::Duration EndOfStay(int64_t client, absl::Duration now) const;
  // When it is there again, at the earliest now.
  absl::Duration NextArrival(int64_t client, absl::Duration now) const;

 private:
  using Stays = std::vector<std::pair<absl::Duration, absl::Duration>>;  // from, until; ascending
  const Stays& StaysOf(int64_t client) const { return clients_[client % static_cast<int64_t>(clients_.size())]; }

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
