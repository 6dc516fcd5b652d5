#include "simulation/runner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "adapters/codec.h"
#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "adapters/safetensors.h"
#include "aggregators/core/state.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "server/evaluation/evaluation.h"
#include "server/round/plan.h"
#include "server/selection/selection.h"

namespace weft::simulation {
namespace {

constexpr uint64_t kChunkBytes = 1 << 20;

// The broadcast tensors as a client receives them: through encoder, chunks and decoder.
absl::StatusOr<Adapter> Receive(const server::Broadcast& broadcast, const std::shared_ptr<const Layout>& job) {
  StateEncoder encoder(*broadcast.state(),
                       {.layout = broadcast.layout(), .job_layout = job, .roles = {}, .chunk_bytes = kChunkBytes});
  WEFT_ASSIGN_OR_RETURN(StateDecoder decoder, StateDecoder::Create(encoder.Header(), {.job_layout = job}));
  proto::Chunk chunk;
  while (encoder.Next(&chunk)) WEFT_RETURN_IF_ERROR(decoder.Add(chunk));
  return std::move(decoder).Finish();
}

// An update as the coordinator receives it.
absl::StatusOr<EncodedUpdate> Receive(const LocalResult& result, const UpdateDecoder::Options& options,
                                      RoundReport* report) {
  UpdateEncoder encoder(result.tensors, result.components, kChunkBytes);
  WEFT_ASSIGN_OR_RETURN(UpdateDecoder decoder, UpdateDecoder::Create(encoder.Header(), options));
  report->bytes_up += encoder.total_bytes();
  proto::Chunk chunk;
  while (encoder.Next(&chunk)) WEFT_RETURN_IF_ERROR(decoder.Add(chunk));
  return std::move(decoder).Finish();
}

void Carry(const Attack& attack, uint64_t seed, const Adapter& start, Adapter* trained) {
  if (attack.kind == Attack::Kind::kNone) return;
  Philox random(seed, StreamId("attack"));
  for (size_t i = 0; i < trained->values().size(); ++i) {
    float& value = trained->values()[i];
    const float before = start.values()[i];
    if (attack.kind == Attack::Kind::kScale) {
      value = before + static_cast<float>(attack.factor) * (value - before);
    } else if (attack.kind == Attack::Kind::kNoise) {
      value = before + static_cast<float>(attack.factor * random.NextNormal());
    } else {
      value = std::numeric_limits<float>::quiet_NaN();
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Runner>> Runner::Create(Options options) {
  if (options.clients.empty()) return absl::InvalidArgumentError("no clients; name at least one folder of data");
  const bool ranks = options.job.rule->facts().takes_mixed_ranks;
  for (const VirtualClient& client : options.clients) {
    if (client.max_rank > 0 && !ranks) {
      return absl::InvalidArgumentError(absl::StrCat("client ", client.id, " trains at most rank ", client.max_rank,
                                                     ", but rule ", std::string(options.job.rule->name()),
                                                     " takes whole factors only; use hetlora, flexlora or flora"));
    }
  }
  std::unique_ptr<Runner> runner(new Runner(std::move(options)));
  WEFT_RETURN_IF_ERROR(runner->Start());
  return runner;
}

absl::Status Runner::Start() {
  const proto::JobConfig& config = options_.job.config;
  job_id_ = config.name();
  WEFT_ASSIGN_OR_RETURN(store_, StateStore::Open(""));
  proto::JobOffer offer;
  offer.set_job_id(job_id_);
  offer.set_base_hash(options_.trainer->base_hash());
  *offer.mutable_task() = config.task();
  *offer.mutable_adapter() = config.adapter();
  WEFT_ASSIGN_OR_RETURN(layout_, options_.trainer->PrepareJob(offer));
  WEFT_ASSIGN_OR_RETURN(Adapter initial,
                        MakeInitialAdapter(config.adapter(), options_.job.base, options_.job.layout, config.seed()));
  WEFT_ASSIGN_OR_RETURN(Adapter state, options_.job.rule->InitialState(config, std::move(initial)));
  options_.trainer->ResetBase(job_id_);
  return Publish(std::move(state));
}

absl::Status Runner::Publish(Adapter state) {
  WEFT_ASSIGN_OR_RETURN(broadcast_, server::Broadcast::Create(std::make_shared<const Adapter>(std::move(state))));
  WEFT_ASSIGN_OR_RETURN(Adapter received, Receive(*broadcast_, layout_));
  received_ = std::make_shared<const Adapter>(std::move(received));
  if (round_ == 0 || !aggregators::HasRole(received_->layout(), "base_a")) return absl::OkStatus();
  base_step_bytes_[round_] = broadcast_->SizeBytes({"base_a", "base_b"});
  return options_.trainer->AddToBase(job_id_, round_, *received_);
}

LocalJob Runner::JobOf(const VirtualClient& client) const {
  return {.adapter = options_.job.config.adapter(), .layout = layout_, .max_rank = client.max_rank};
}

uint64_t Runner::Download(const VirtualClient& client) {
  const auto held = held_.find(client.id);
  const std::vector<std::string> lacking =
      held == held_.end() ? std::vector<std::string>() : broadcast_->Lacking(held->second);
  uint64_t bytes = broadcast_->SizeBytes(lacking);
  held_[client.id] = broadcast_->hashes();
  // Steps of the base that it missed, before the one that came with the state.
  int64_t& applied = base_steps_[client.id];
  for (int64_t step = applied + 1; step < round_; ++step) {
    const auto missed = base_step_bytes_.find(step);
    bytes += missed == base_step_bytes_.end() ? 0 : missed->second;
  }
  applied = round_;
  return bytes;
}

absl::StatusOr<RoundReport> Runner::Step(bool evaluate) {
  const absl::Time start = absl::Now();
  RoundReport report;
  report.round = round_ + 1;
  server::SelectionSnapshot snapshot;
  snapshot.seed = options_.job.config.seed();
  snapshot.round = report.round;
  snapshot.min_updates = options_.job.config.round().min_updates();
  for (const VirtualClient& client : options_.clients) snapshot.ready.push_back(client.id);
  const std::vector<std::string> ids = server::SelectCohort(options_.job.config.selection(), snapshot);
  const std::set<std::string> selected(ids.begin(), ids.end());
  std::vector<const VirtualClient*> cohort;
  for (const VirtualClient& client : options_.clients) {
    if (selected.contains(client.id)) cohort.push_back(&client);
  }
  report.selected = static_cast<int64_t>(cohort.size());
  WEFT_RETURN_IF_ERROR(Round(cohort, &report));
  if (evaluate) WEFT_RETURN_IF_ERROR(Evaluate(&report));
  report.seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return report;
}

absl::Status Runner::Round(const std::vector<const VirtualClient*>& cohort, RoundReport* report) {
  const proto::JobConfig& config = options_.job.config;
  const std::shared_ptr<const Adapter> state = broadcast_->state();
  WEFT_RETURN_IF_ERROR(Dump("start", *state));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<aggregators::Aggregator> aggregator,
                        options_.job.rule->Create(config, {state.get(), report->round, options_.threads}));
  double loss = 0, examples = 0;
  for (const VirtualClient* client : cohort) {
    proto::Plan plan = server::PlanBeforeRule(config, job_id_, report->round, client->id);
    aggregator->FillPlan(&plan);
    roles_local_ = {plan.roles_local().begin(), plan.roles_local().end()};
    report->bytes_down += Download(*client);
    const DataShard* shard = client->data->split("train");
    if (shard == nullptr) return absl::FailedPreconditionError(absl::StrCat(client->id, ": no split \"train\""));
    WEFT_ASSIGN_OR_RETURN(LocalUpdate local,
                          LocalUpdate::Begin(JobOf(*client), plan, received_, store_->Get(job_id_, client->id)));
    const CohortMember member = local.Member(client->id, shard);
    WEFT_ASSIGN_OR_RETURN(std::vector<absl::StatusOr<TrainResult>> results,
                          options_.trainer->Train(plan, {&member, 1}, [](int64_t, int64_t) { return true; }));
    WEFT_ASSIGN_OR_RETURN(TrainResult trained, std::move(results[0]));
    Carry(client->attack, plan.seed(), local.start(), &trained.adapter);
    auto sent = std::move(local).End(client->id, shard->rows(), trained);
    if (!sent.ok()) {  // what its encoding can't hold does not leave the client
      ++report->refused;
      continue;
    }
    const std::vector<std::string> roles(plan.roles_sent().begin(), plan.roles_sent().end());
    WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout,
                          SentLayout(state->layout(), roles, sent->update.rank()));
    const absl::StatusOr<EncodedUpdate> received =
        Receive(*sent, {std::move(layout), config.encoding(), plan.keep_components()}, report);
    absl::Status accepted = received.status();
    if (accepted.ok()) {
      accepted = aggregator->Accumulate({client->id, sent->update.examples(), *received, sent->update.rank()});
    }
    if (!accepted.ok()) {
      if (!absl::IsInvalidArgument(accepted)) return accepted;
      ++report->refused;
      continue;
    }
    WEFT_RETURN_IF_ERROR(Dump(absl::StrCat("update.", client->id), received->Decode()));
    ++report->updates;
    loss += sent->update.metrics().loss() * static_cast<double>(sent->update.examples());
    examples += static_cast<double>(sent->update.examples());
    WEFT_RETURN_IF_ERROR(store_->Put(job_id_, client->id, std::move(sent->next)));
  }
  report->train_loss = examples > 0 ? loss / examples : 0;
  WEFT_ASSIGN_OR_RETURN(Adapter next, std::move(*aggregator).Finish());
  WEFT_RETURN_IF_ERROR(Dump("next", next));
  round_ = report->round;
  return Publish(std::move(next));
}

absl::Status Runner::Evaluate(RoundReport* report) {
  const proto::JobConfig& config = options_.job.config;
  proto::EvaluationPlan plan;
  plan.set_job_id(job_id_);
  plan.set_round(round_);
  plan.set_split(config.evaluation().split());
  plan.set_rows(config.evaluation().rows());
  plan.set_max_length(config.training().max_length());
  plan.set_compute(config.training().compute());
  for (const std::string& role : roles_local_) plan.add_roles_local(role);
  plan.set_base_residual(!base_step_bytes_.empty());
  server::EvaluationSum sum(config.task());
  for (const VirtualClient& client : options_.clients) {
    const DataShard* shard = client.data->split(plan.split());
    if (shard == nullptr) continue;
    WEFT_ASSIGN_OR_RETURN(const Adapter adapter,
                          EvaluatedAdapter(JobOf(client), plan, *received_, *store_->Get(job_id_, client.id)));
    CohortMember member;
    member.client_id = client.id;
    member.start = &adapter;
    member.shard = shard;
    WEFT_ASSIGN_OR_RETURN(std::vector<absl::StatusOr<proto::Evaluation>> results,
                          options_.trainer->Evaluate(plan, {&member, 1}, [](int64_t, int64_t) { return true; }));
    WEFT_ASSIGN_OR_RETURN(const proto::Evaluation result, std::move(results[0]));
    WEFT_RETURN_IF_ERROR(server::CheckEvaluation(result, config.task(), plan.rows()));
    sum.Add(result);
    server::EvaluationSum own(config.task());
    own.Add(result);
    proto::RoundStatus figures;
    own.Fill(&figures);
    if (figures.has_accuracy()) report->accuracy_of[client.id] = figures.accuracy();
  }
  sum.Fill(&report->evaluation);
  return absl::OkStatus();
}

absl::Status Runner::Dump(const std::string& name, const Adapter& adapter) const {
  if (options_.dump.empty()) return absl::OkStatus();
  std::vector<SafetensorToWrite> tensors;
  for (const TensorSpec& tensor : adapter.layout().tensors()) {
    tensors.push_back({tensor.name, "F32", tensor.shape, std::as_bytes(adapter.tensor(tensor))});
  }
  return WriteSafetensors(absl::StrCat(options_.dump, "/round-", round_ + 1, ".", name, ".safetensors"), tensors);
}

}  // namespace weft::simulation
