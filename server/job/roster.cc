#include "server/job/roster.h"

#include <algorithm>
#include <utility>

namespace weft::server {
namespace {

constexpr int kMaxStrikes = 4;  // sits out at most 8 rounds

}  // namespace

void Roster::Answered(const std::string& client) {
  if (const auto it = clients_.find(client); it != clients_.end()) it->second = Entry{it->second.rows};
}

void Roster::Failed(const std::string& client, int64_t round) {
  if (const auto it = clients_.find(client); it != clients_.end()) it->second.failed_in = round;
}

void Roster::Stalled(const std::string& client, int64_t round) {
  const auto it = clients_.find(client);
  if (it == clients_.end()) return;
  Entry& entry = it->second;
  entry.strikes = std::min(entry.strikes + 1, kMaxStrikes);
  entry.stalled_through = round + (int64_t{1} << (entry.strikes - 1)) - 1;
}

std::vector<std::string> Roster::Draw(const proto::SelectionConfig& config, SelectionSnapshot attempt,
                                      int64_t at_least) const {
  attempt.ready = ForTraining(attempt.round, at_least);
  return SelectCohort(config, attempt);
}

std::vector<std::string> Roster::ForTraining(int64_t round, int64_t at_least) const {
  std::vector<std::string> all;
  std::vector<std::string> good;
  for (const auto& [client, entry] : clients_) {
    if (entry.rows.train == 0) continue;
    all.push_back(client);
    if (entry.stalled_through < round && entry.failed_in != round) good.push_back(client);
  }
  return static_cast<int64_t>(good.size()) >= at_least ? good : all;
}

std::vector<std::string> Roster::ForEvaluation(int64_t round) const {
  std::vector<std::string> clients;
  for (const auto& [client, entry] : clients_) {
    if (entry.rows.test > 0 && entry.stalled_through < round) clients.push_back(client);
  }
  return clients;
}

int64_t Roster::trainers() const {
  return std::count_if(clients_.begin(), clients_.end(), [](const auto& item) { return item.second.rows.train > 0; });
}

}  // namespace weft::server
