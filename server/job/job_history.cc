#include "server/job/job_history.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/job/duration.h"

namespace weft::server {
namespace {

int64_t EvaluationsSinceBest(const std::vector<CommittedRound>& rounds) {
  const int64_t best = BestRound(rounds);
  return std::count_if(rounds.begin(), rounds.end(), [&](const CommittedRound& round) {
    return round.status.has_accuracy() && round.status.round() > best;
  });
}

}  // namespace

int64_t BestRound(const std::vector<CommittedRound>& rounds) {
  const CommittedRound* best = nullptr;
  for (const CommittedRound& round : rounds) {
    if (!round.status.has_accuracy()) continue;
    if (best == nullptr || round.status.accuracy() > best->status.accuracy()) best = &round;
  }
  if (best != nullptr) return best->status.round();
  return rounds.empty() ? 0 : rounds.back().status.round();
}

std::string StopReason(const proto::StopConfig& stop, const JobHistory& history, absl::Time now) {
  if (!history.rounds.empty()) {
    const proto::RoundStatus& last = history.rounds.back().status;
    if (last.round() >= stop.rounds()) return absl::StrCat("all ", stop.rounds(), " rounds are done");
    if (stop.has_target_accuracy() && last.has_accuracy() && last.accuracy() >= stop.target_accuracy()) {
      return absl::StrFormat("accuracy %.4f reached the target %.4f", last.accuracy(), stop.target_accuracy());
    }
    if (stop.has_patience() && EvaluationsSinceBest(history.rounds) >= stop.patience()) {
      return absl::StrCat("no better accuracy in ", stop.patience(), " evaluations");
    }
  }
  if (stop.has_time() && history.started.has_value() && now - *history.started >= ToDuration(stop.time())) {
    return absl::StrCat("the time limit of ", absl::FormatDuration(ToDuration(stop.time())), " is reached");
  }
  return "";
}

Evaluated EvaluationDue(const proto::EvaluationConfig& config, const CommittedRound& round, bool last) {
  if (last) {
    const bool same_rows = round.evaluated == Evaluated::kCapped && config.rows() == config.final_rows();
    return round.evaluated == Evaluated::kFinal || same_rows ? Evaluated::kNo : Evaluated::kFinal;
  }
  const bool due = config.every() > 0 && round.status.round() % config.every() == 0;
  return due && round.evaluated == Evaluated::kNo ? Evaluated::kCapped : Evaluated::kNo;
}

std::optional<absl::Duration> TypicalRound(const std::vector<CommittedRound>& rounds) {
  if (rounds.empty()) return std::nullopt;
  std::vector<double> seconds;
  for (size_t i = rounds.size() - std::min<size_t>(rounds.size(), 5); i < rounds.size(); ++i) {
    seconds.push_back(rounds[i].status.train_seconds() + rounds[i].status.evaluation_seconds());
  }
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  return absl::Seconds(seconds[seconds.size() / 2]);
}

}  // namespace weft::server
