// EngineImpl: evaluations, of the committed adapter centrally and of clients on their own rows.

#include <algorithm>
#include <deque>
#include <iterator>
#include <span>
#include <utility>

#include "adapters/factors.h"
#include "aggregators/core/state.h"
#include "common/parallel.h"
#include "common/status_macros.h"
#include "server/evaluation/evaluation.h"
#include "simulation/engine/engine_impl.h"
#include "training/data/schedule.h"

namespace weft::simulation {
namespace {

// Rows that one thread evaluates at a time: fixed, so that the sum of losses does not depend on threads.
constexpr int64_t kRowsPerSlice = 128;
constexpr size_t kClientsPerSlice = 16;

void Add(const proto::Evaluation& part, proto::Evaluation* sum) {
  sum->set_examples(sum->examples() + part.examples());
  sum->set_correct(sum->correct() + part.correct());
  sum->set_tokens(sum->tokens() + part.tokens());
  sum->set_loss_sum(sum->loss_sum() + part.loss_sum());
  while (sum->classes_size() < part.classes_size()) sum->add_classes();
  for (int i = 0; i < part.classes_size(); ++i) {
    proto::ClassCounts& to = *sum->mutable_classes(i);
    to.set_correct(to.correct() + part.classes(i).correct());
    to.set_predicted(to.predicted() + part.classes(i).predicted());
    to.set_actual(to.actual() + part.classes(i).actual());
  }
}

// One result of a call with one member.
absl::StatusOr<proto::Evaluation> Single(absl::StatusOr<std::vector<absl::StatusOr<proto::Evaluation>>> results) {
  if (!results.ok()) return results.status();
  return std::move((*results)[0]);
}

bool GoOn(int64_t, int64_t) { return true; }

}  // namespace

// Evaluations take no simulated time.
absl::Status EngineImpl::Evaluate(const std::vector<server::SendEvaluation>& wanted) {
  const proto::EvaluationPlan plan = PlanOf(wanted.front().rows);
  std::vector<proto::Evaluation> evaluations;
  if (!options_.central.empty()) {
    WEFT_ASSIGN_OR_RETURN(proto::Evaluation sum, EvaluateCentrally(plan));
    evaluations.push_back(std::move(sum));
  } else {
    std::vector<int64_t> clients;
    for (const server::SendEvaluation& action : wanted) {
      WEFT_ASSIGN_OR_RETURN(const int64_t client, options_.site.population->Find(action.client));
      clients.push_back(client);
    }
    WEFT_ASSIGN_OR_RETURN(std::vector<ClientEvaluation> own, EvaluateOwnRows(plan, clients));
    for (ClientEvaluation& evaluation : own) evaluations.push_back(std::move(evaluation.figures));
  }
  for (const server::SendEvaluation& action : wanted) {
    const auto found = std::find_if(evaluations.begin(), evaluations.end(), [&](const proto::Evaluation& evaluation) {
      return evaluation.client_id() == action.client;
    });
    if (found == evaluations.end()) {
      WEFT_RETURN_IF_ERROR(Apply(machine_->OnFailure(action.client, action.round, "no rows to evaluate on", now_)));
    } else {
      WEFT_RETURN_IF_ERROR(server::CheckEvaluation(*found, config().task(), 0));
      WEFT_RETURN_IF_ERROR(Apply(machine_->OnEvaluation(*found, now_)));
    }
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::SaveEvaluation() {
  return journal_ == nullptr ? absl::OkStatus() : journal_->SaveRound(job_id_, history().rounds.back());
}

proto::EvaluationPlan EngineImpl::PlanOf(int64_t rows) const {
  proto::EvaluationPlan plan;
  plan.set_job_id(job_id_);
  plan.set_round(machine_->last_round());
  plan.set_split(config().evaluation().split());
  plan.set_rows(rows);
  plan.set_max_length(config().training().max_length());
  plan.set_compute(config().training().compute());
  for (const std::string& role : roles_local_) plan.add_roles_local(role);
  plan.set_base_residual(aggregators::HasRole(broadcast_->state()->layout(), "base_a"));
  return plan;
}

absl::StatusOr<proto::Evaluation> EngineImpl::EvaluateCentrally(const proto::EvaluationPlan& plan) {
  // Slices of all shards, evenly spaced over each as the plan's rows are.
  std::vector<std::unique_ptr<DataShard>> slices;
  for (const DataShard* shard : options_.central) {
    const int64_t wanted = plan.rows() == 0 ? shard->rows() : std::min(plan.rows(), shard->rows());
    for (int64_t first = 0; first < wanted; first += kRowsPerSlice) {
      std::vector<uint32_t> rows;
      for (int64_t i = first; i < std::min(wanted, first + kRowsPerSlice); ++i) {
        rows.push_back(static_cast<uint32_t>(EvenlySpacedRow(i, wanted, shard->rows())));
      }
      WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DataShard> slice, shard->Select(std::move(rows)));
      slices.push_back(std::move(slice));
    }
  }
  proto::EvaluationPlan whole = plan;  // a slice has only rows that are wanted
  whole.set_rows(0);
  const Adapter adapter = Cut(*received_, layout_);
  std::vector<absl::StatusOr<proto::Evaluation>> results(slices.size(), proto::Evaluation());
  ParallelFor(options_.site.threads, static_cast<int64_t>(slices.size()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      CohortMember member;
      member.client_id = kCentral;
      member.start = &adapter;
      member.shard = slices[i].get();
      results[i] = Single(options_.site.trainer->Evaluate(whole, {&member, 1}, GoOn));
    }
  });
  proto::Evaluation sum;
  sum.set_job_id(job_id_);
  sum.set_round(plan.round());
  sum.set_client_id(kCentral);
  for (const absl::StatusOr<proto::Evaluation>& result : results) {
    WEFT_RETURN_IF_ERROR(result.status());
    Add(*result, &sum);
  }
  return sum;
}

absl::StatusOr<std::vector<ClientEvaluation>> EngineImpl::EvaluateOwnRows(const proto::EvaluationPlan& plan,
                                                                          const std::vector<int64_t>& clients) {
  const auto slices = static_cast<int64_t>((clients.size() + kClientsPerSlice - 1) / kClientsPerSlice);
  std::vector<absl::StatusOr<std::vector<ClientEvaluation>>> results(slices, std::vector<ClientEvaluation>());
  ParallelFor(options_.site.threads, slices, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const size_t first = i * kClientsPerSlice;
      results[i] =
          EvaluateSlice(plan, std::span(clients).subspan(first, std::min(kClientsPerSlice, clients.size() - first)));
    }
  });
  std::vector<ClientEvaluation> evaluations;
  for (absl::StatusOr<std::vector<ClientEvaluation>>& result : results) {
    WEFT_RETURN_IF_ERROR(result.status());
    std::move(result->begin(), result->end(), std::back_inserter(evaluations));
  }
  return evaluations;
}

absl::StatusOr<std::vector<ClientEvaluation>> EngineImpl::EvaluateSlice(const proto::EvaluationPlan& plan,
                                                                        std::span<const int64_t> clients) const {
  struct Local {
    Adapter adapter;
    std::unique_ptr<DataShard> rows;
  };
  std::deque<Local> locals;  // members refer to them
  std::vector<CohortMember> members;
  std::vector<ClientEvaluation> evaluations;
  for (const int64_t client : clients) {
    if (options_.site.population->TestRows(client) == 0) continue;
    const LocalJob job = {
        .adapter = config().adapter(), .layout = layout_, .max_rank = options_.site.behaviour->MaxRankOf(client)};
    WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const KeptState> kept, states_->Get(client));
    WEFT_ASSIGN_OR_RETURN(Adapter adapter, EvaluatedAdapter(job, plan, *received_, *kept));
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DataShard> rows, options_.site.population->Test(client));
    locals.push_back({std::move(adapter), std::move(rows)});
    CohortMember& member = members.emplace_back();
    member.client_id = options_.site.population->Name(client);
    member.start = &locals.back().adapter;
    member.shard = locals.back().rows.get();
    evaluations.push_back({.client = client, .figures = {}});
  }
  if (members.empty()) return evaluations;
  WEFT_ASSIGN_OR_RETURN(std::vector<absl::StatusOr<proto::Evaluation>> results,
                        options_.site.trainer->Evaluate(plan, members, GoOn));
  for (size_t i = 0; i < results.size(); ++i) {
    WEFT_ASSIGN_OR_RETURN(evaluations[i].figures, std::move(results[i]));
  }
  return evaluations;
}

absl::StatusOr<std::vector<ClientEvaluation>> EngineImpl::EvaluateClients(const std::vector<int64_t>& clients) {
  return EvaluateOwnRows(PlanOf(config().evaluation().final_rows()), clients);
}

}  // namespace weft::simulation
