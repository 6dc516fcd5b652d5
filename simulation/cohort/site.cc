#include "simulation/cohort/site.h"

#include <limits>
#include <string>
#include <utility>

#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "client/primitives.h"
#include "common/status_macros.h"
#include "proto/schema.h"
#include "server/round/plan.h"

namespace weft::simulation {

absl::StatusOr<std::shared_ptr<const Layout>> PrepareTrainer(const Site& site) {
  const proto::JobConfig& config = site.job->config;
  proto::JobOffer offer;
  offer.set_job_id(config.name());
  offer.set_base_hash(site.trainer->base_hash());
  *offer.mutable_task() = config.task();
  *offer.mutable_adapter() = config.adapter();
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, site.trainer->PrepareJob(offer));
  site.trainer->ResetBase(config.name());
  return layout;
}

absl::StatusOr<std::shared_ptr<server::Fold>> MakeFold(const Site& site, std::shared_ptr<const Adapter> state,
                                                       int64_t round, int64_t updates) {
  proto::CoordinatorConfig limits;
  limits.set_state_dir("none");
  limits.set_aggregation_threads(site.threads);
  limits.set_aggregation_memory_bytes(
      std::numeric_limits<int64_t>::max());  // the run's own estimate has it (run/run.cc)
  proto::ApplyDefaults(&limits);
  server::Fold::Options options;
  options.job = site.job;
  options.state = std::move(state);
  options.plan = server::PlanBeforeRule(site.job->config, site.job->config.name(), round, "");
  options.updates = updates;
  options.config = &limits;
  return server::Fold::Create(options);
}

absl::StatusOr<std::shared_ptr<const Adapter>> InitialStateOf(const Site& site, const Adapter* initial) {
  const proto::JobConfig& config = site.job->config;
  Adapter values = initial == nullptr ? Adapter(site.job->layout) : initial->Clone();
  if (initial == nullptr) {
    WEFT_ASSIGN_OR_RETURN(values,
                          MakeInitialAdapter(config.adapter(), site.job->base, site.job->layout, config.seed()));
  }
  WEFT_ASSIGN_OR_RETURN(Adapter state, site.job->rule->InitialState(config, std::move(values)));
  return std::make_shared<const Adapter>(std::move(state));
}

int64_t KeptBytes(const Site& site, const proto::Plan& plan) {
  const bool error = IsLossy(plan.encoding()) && plan.encoding().error_feedback();
  const int64_t parts = (error ? 1 : 0) + (plan.control_variates() ? 1 : 0) + (plan.roles_local().empty() ? 0 : 1);
  return parts * site.job->layout->size_bytes();
}

std::shared_ptr<const Adapter> ReceivedOf(const server::Broadcast& broadcast) {
  const std::shared_ptr<const Adapter>& state = broadcast.state();
  if (*broadcast.layout() == state->layout()) return state;
  return std::make_shared<const Adapter>(Cut(*state, broadcast.layout()));
}

GroupTrainer::Options TrainingOf(const Site& site, std::shared_ptr<const Layout> layout,
                                 std::shared_ptr<server::Fold> fold, std::shared_ptr<const Adapter> received,
                                 std::function<absl::StatusOr<std::shared_ptr<const KeptState>>(int64_t)> kept) {
  GroupTrainer::Options options;
  options.job = {.adapter = site.job->config.adapter(), .layout = std::move(layout)};
  options.plan_before_rule = [job = site.job, round = fold->round()](const std::string& client) {
    return server::PlanBeforeRule(job->config, job->config.name(), round, client);
  };
  options.fold = std::move(fold);
  options.broadcast = std::move(received);
  options.trainer = site.trainer;
  options.rows = [population = site.population](int64_t client, bool flip) { return population->Train(client, flip); };
  options.kept = std::move(kept);
  return options;
}

}  // namespace weft::simulation
