#ifndef WEFT_SERVER_ROUND_PLAN_H_
#define WEFT_SERVER_ROUND_PLAN_H_

#include <cstdint>
#include <string>

#include "proto/job.pb.h"
#include "proto/plan.pb.h"

namespace weft::server {

// A client's plan of a round, before the rule adds its part (Aggregator::FillPlan): local training with the learning
// rate of that round, the encoding, and a seed of this client and round.
proto::Plan PlanBeforeRule(const proto::JobConfig& config, const std::string& job_id, int64_t round,
                           const std::string& client_id);

}  // namespace weft::server

#endif  // WEFT_SERVER_ROUND_PLAN_H_
