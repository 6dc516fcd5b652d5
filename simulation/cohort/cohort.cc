#include "simulation/cohort/cohort.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/parallel.h"
#include "common/status_macros.h"

namespace weft::simulation {
Cohort::Cohort(Options options, std::vector<CohortClient> clients)
    : options_(std::move(options)),
      trainer_(options_.training),
      clients_(std::move(clients)),
      results_(clients_.size()) {
  double tokens = 0;
  for (size_t i = 0; i < clients_.size(); ++i) {
    if (groups_.empty() || tokens + clients_[i].tokens > options_.tokens_per_pass) {
      groups_.emplace_back();
      tokens = 0;
    }
    tokens += clients_[i].tokens;
    groups_.back().clients.push_back(i);
    groups_.back().work += clients_[i].work;
    group_of_.push_back(groups_.size() - 1);
    place_[clients_[i].index] = i;
  }
}

absl::StatusOr<absl::StatusOr<SentUpdate>> Cohort::Take(int64_t index) {
  const size_t place = place_.at(index);
  if (!groups_[group_of_[place]].trained) WEFT_RETURN_IF_ERROR(TrainFrom(group_of_[place]));
  std::optional<absl::StatusOr<SentUpdate>> result = std::exchange(results_[place], std::nullopt);
  if (!result.has_value()) return absl::InternalError(absl::StrCat("client ", index, ": its update was taken before"));
  return *std::move(result);
}

absl::Status Cohort::TrainFrom(size_t first) {
  const std::vector<std::vector<Group*>> dealt = Deal(Window(first));
  const auto ranks = static_cast<int>(dealt.size());
  for (int rank = 1; rank < ranks; ++rank) WEFT_RETURN_IF_ERROR(Send(rank, dealt[rank]));
  absl::Status status = TrainHere(dealt[0]);
  // Every rank that was asked is listened to: one that still answers would take no other command.
  for (int rank = 1; rank < ranks; ++rank) status.Update(Collect(rank, dealt[rank]));
  return status;
}

std::vector<Cohort::Group*> Cohort::Window(size_t first) {
  const int ranks = options_.workers == nullptr ? 1 : options_.workers->ranks();
  const int wanted = options_.threads * (ranks == 1 ? kGroupsPerThread : kGroupsPerThreadOfRanks * ranks);
  std::vector<Group*> window;
  int64_t clients = 0;
  for (size_t g = first; g < groups_.size() && std::ssize(window) < wanted; ++g) {
    if (groups_[g].trained) continue;
    clients += std::ssize(groups_[g].clients);
    if (!window.empty() && clients > options_.most_in_flight) break;
    window.push_back(&groups_[g]);
  }
  return window;
}

// The largest first, each to the rank that has least to do. Where a group is trained has no part in its bits.
std::vector<std::vector<Cohort::Group*>> Cohort::Deal(std::vector<Group*> window) const {
  std::vector<std::vector<Group*>> dealt(options_.workers == nullptr ? 1 : options_.workers->ranks());
  std::vector<double> work(dealt.size(), 0);
  if (dealt.size() > 1) {
    std::stable_sort(window.begin(), window.end(), [](const Group* a, const Group* b) { return a->work > b->work; });
  }
  for (Group* group : window) {
    const auto rank = std::min_element(work.begin(), work.end()) - work.begin();
    dealt[rank].push_back(group);
    work[rank] += group->work;
  }
  return dealt;
}

std::vector<const CohortClient*> Cohort::ClientsOf(const Group& group) const {
  std::vector<const CohortClient*> clients;
  for (const size_t place : group.clients) clients.push_back(&clients_[place]);
  return clients;
}

absl::Status Cohort::TrainHere(const std::vector<Group*>& groups) {
  std::vector<absl::Status> statuses(groups.size());
  ParallelFor(options_.threads, std::ssize(groups), [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      absl::StatusOr<std::vector<absl::StatusOr<SentUpdate>>> results = trainer_.Train(ClientsOf(*groups[g]));
      statuses[g] = results.status();
      for (size_t i = 0; results.ok() && i < results->size(); ++i) {
        results_[groups[g]->clients[i]] = std::move((*results)[i]);
      }
    }
  });
  for (size_t g = 0; g < groups.size(); ++g) {
    WEFT_RETURN_IF_ERROR(statuses[g]);
    groups[g]->trained = true;
  }
  return absl::OkStatus();
}

absl::Status Cohort::Send(int worker, const std::vector<Group*>& groups) {
  if (groups.empty()) return absl::OkStatus();
  std::vector<std::vector<int64_t>> clients;
  for (const Group* group : groups) {
    clients.emplace_back();
    for (const size_t place : group->clients) clients.back().push_back(clients_[place].index);
  }
  return options_.workers->Train(worker, clients, options_.training.kept);
}

absl::Status Cohort::Collect(int worker, const std::vector<Group*>& groups) {
  if (groups.empty()) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(std::vector<absl::StatusOr<SentUpdate>> results, options_.workers->Trained(worker));
  auto next = results.begin();
  for (Group* group : groups) {
    for (const size_t place : group->clients) {
      if (next == results.end()) return absl::InternalError(absl::StrCat("rank ", worker, " trained fewer clients"));
      results_[place] = std::move(*next++);
    }
    group->trained = true;
  }
  return absl::OkStatus();
}

}  // namespace weft::simulation
