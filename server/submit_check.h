#ifndef WEFT_SERVER_SUBMIT_CHECK_H_
#define WEFT_SERVER_SUBMIT_CHECK_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "adapters/layout.h"
#include "aggregators/core/aggregator.h"
#include "proto/daemon.pb.h"
#include "proto/job.pb.h"

namespace weft::server {

// A job that can run here, and what was worked out on the way.
struct CheckedJob {
  proto::JobConfig config;  // with defaults
  BaseDescription base;
  std::shared_ptr<const Layout> layout;
  const aggregators::Rule* rule = nullptr;
  // Differential privacy: what one round spends, and the rounds that fit the budget, at most stop.rounds. Absent: none.
  struct Privacy {
    aggregators::PrivacySpent one_round;
    int64_t rounds = 0;
  };
  std::optional<Privacy> privacy;
};

// Everything that can be known of a job before it runs, against this coordinator's limits. INVALID_ARGUMENT: what was
// found, why it can't work, and the nearest setting that does.
absl::StatusOr<CheckedJob> CheckJob(proto::JobConfig config, const proto::CoordinatorConfig& coordinator);

// INVALID_ARGUMENT when the rule of a round of `updates` updates, from a state of this layout, could hold more than
// aggregation_memory_bytes.
absl::Status CheckMemory(const CheckedJob& job, const Layout& state, int64_t updates,
                         const proto::CoordinatorConfig& coordinator);

// INVALID_ARGUMENT unless `name` is 1 to 128 letters, digits, '-', '_' or '.'. `what` it names, for the message.
absl::Status CheckName(const std::string& name, const char* what);

}  // namespace weft::server

#endif  // WEFT_SERVER_SUBMIT_CHECK_H_
