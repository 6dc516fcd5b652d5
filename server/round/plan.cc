#include "server/round/plan.h"

#include <cmath>

#include "common/random.h"

namespace weft::server {

proto::Plan PlanBeforeRule(const proto::JobConfig& config, const std::string& job_id, int64_t round,
                           const std::string& client_id) {
  proto::Plan plan;
  plan.set_job_id(job_id);
  plan.set_round(round);
  proto::TrainingConfig& training = *plan.mutable_training();
  training = config.training();
  training.set_learning_rate(training.learning_rate() *
                             std::pow(training.learning_rate_decay(), static_cast<double>(round - 1)));
  training.set_learning_rate_decay(1);
  *plan.mutable_encoding() = config.encoding();
  plan.set_seed(MixSeed(MixSeed(config.seed(), static_cast<uint64_t>(round)), StreamId(client_id)));
  return plan;
}

}  // namespace weft::server
