#ifndef WEFT_SIMULATION_BEHAVIOUR_BEHAVIOUR_H_
#define WEFT_SIMULATION_BEHAVIOUR_BEHAVIOUR_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/scenario.pb.h"
#include "simulation/behaviour/trace.h"

namespace weft::simulation {

// What a client has to do in a round.
struct Work {
  int64_t rows = 0;  // that pass through training
  uint64_t bytes_down = 0, bytes_up = 0;
};

// What becomes of a client that got its plan at 0. Durations since then, in whole microseconds.
struct Timeline {
  enum class Fault {
    kNone,
    kLost,   // its connection breaks at fault_at, and comes back at back_at if at all; it then goes on where it was
    kHangs,  // shows no sign of life from fault_at on
  };

  // As it would be without a fault, or, where it comes back, with the pause.
  absl::Duration downloaded, trained, uploaded;
  Fault fault = Fault::kNone;
  absl::Duration fault_at;
  std::optional<absl::Duration> back_at;

  // Its update arrives, at `uploaded`.
  bool answers() const { return fault == Fault::kNone || back_at.has_value(); }
};

// A client in a round.
struct Turn {
  int64_t client = 0;
  int64_t round = 1;
  int64_t attempt = 1;
  absl::Duration now = absl::ZeroDuration();  // since the simulation began
};

// How the clients of a population behave: functions of seed, client, round and attempt, nothing of which is held but
// traces. Immutable and thread-safe.
class Behaviour {
 public:
  struct Options {
    proto::BehaviourConfig config;  // with defaults
    int64_t clients = 1;
    uint64_t seed = 0;
    FindClient find = [](const std::string&) { return std::nullopt; };  // for the names in traces
  };
  // INVALID_ARGUMENT: parts of hostile clients or of ranks that come to more than 1, probabilities of faults likewise,
  // a trace that is none (trace.h); NOT_FOUND: no such file.
  static absl::StatusOr<std::unique_ptr<Behaviour>> Create(Options options);

  // Speeds and links are log-normal around their medians, drawn once a client, stragglers once a round. A client whose
  // time of availability ends while it works is lost then, and back when it begins again.
  Timeline TimelineOf(const Turn& turn, const Work& work) const;

  // Who is asked in the first try of a round, ascending; null: whoever is drawn.
  const std::vector<std::string>* CohortOf(int64_t round) const {
    return cohorts_.has_value() ? cohorts_->Of(round) : nullptr;
  }
  const std::optional<CohortTrace>& cohorts() const { return cohorts_; }

  bool always_available() const { return options_.config.availability().kind() == "always"; }
  bool IsAvailable(int64_t client, absl::Duration now) const { return EndOfStay(client, now) > now; }

  // nullptr: honest. Of a part p of n clients, the nearest whole number to p n are hostile, chosen by the seed.
  const proto::HostileConfig* HostileOf(int64_t client) const;
  // Components that the client trains at most; 0: as many as the job has. Parts as of hostile clients.
  int64_t MaxRankOf(int64_t client) const;

 private:
  explicit Behaviour(Options options) : options_(std::move(options)) {}
  absl::Status Check() const;
  double RowsPerSecond(const Turn& turn) const;
  double LinkFactor(int64_t client) const;
  // When the client's stay ends; `now` or earlier: it is not there.
  absl::Duration EndOfStay(int64_t client, absl::Duration now) const;
  absl::Duration NextArrival(int64_t client, absl::Duration now) const;
  void DrawFault(const Turn& turn, Timeline* timeline) const;
  void Leave(const Turn& turn, Timeline* timeline) const;

  const Options options_;
  std::optional<SpeedTrace> speeds_;
  std::optional<AvailabilityTrace> stays_;
  std::optional<CohortTrace> cohorts_;
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_BEHAVIOUR_BEHAVIOUR_H_
