#ifndef WEFT_SIMULATION_ENGINE_VIRTUAL_CANDIDATES_H_
#define WEFT_SIMULATION_ENGINE_VIRTUAL_CANDIDATES_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/status.pb.h"
#include "server/job/candidates.h"
#include "simulation/behaviour/behaviour.h"
#include "simulation/population/population.h"

namespace weft::simulation {

// A population as the clients that a job can ask: those that are there at the moment. Draws without looking at
// everybody, except where a selection or an availability asks for it. Who failed or stalled is passed over as by
// server/job/roster.h.
class VirtualCandidates final : public server::Candidates {
 public:
  struct Options {
    const Population* population = nullptr;
    const Behaviour* behaviour = nullptr;
    const absl::Time* now = nullptr;      // outlives it, as the others
    absl::Time start;                     // of simulated time
    std::vector<std::string> evaluators;  // who evaluates each time
  };
  explicit VirtualCandidates(Options options) : options_(std::move(options)) {}

  // Who is there follows from the behaviour.
  void Add(const std::string&, Rows) override {}
  void Remove(const std::string&) override {}
  void Answered(const std::string& client) override;
  void Failed(const std::string& client, int64_t round) override;
  void Stalled(const std::string& client, int64_t round) override;
  std::vector<std::string> Draw(const proto::SelectionConfig& config, server::SelectionSnapshot attempt,
                                int64_t at_least) const override;
  std::vector<std::string> ForEvaluation(int64_t) const override { return options_.evaluators; }
  bool empty() const override { return false; }
  int64_t trainers() const override;

  // Standings that have changed since the last call.
  std::vector<proto::Standing> TakeChanges();
  void Restore(const proto::Standing& standing);

 private:
  struct Entry {
    int32_t strikes = 0;
    int64_t stalled_through = 0;
    int64_t failed_in = 0;
  };
  bool IsThere(int64_t client) const;

  const Options options_;
  std::map<int64_t, Entry> entries_;  // of clients that failed or stalled since their last answer
  std::map<int64_t, Entry> changed_;
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_ENGINE_VIRTUAL_CANDIDATES_H_
