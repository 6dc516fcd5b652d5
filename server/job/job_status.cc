// The part of JobMachine that describes itself: round summaries and the status shown to people.

#include <algorithm>

#include "server/job/duration.h"
#include "server/job/job_machine.h"

namespace weft::server {
namespace {

const char* PhaseName(JobMachine::Phase phase, bool started) {
  switch (phase) {
    case JobMachine::Phase::kWaiting:
      return started ? "selecting" : "";
    case JobMachine::Phase::kTraining:
      return "training";
    case JobMachine::Phase::kAggregating:
      return "aggregating";
    case JobMachine::Phase::kEvaluating:
      return "evaluating";
    case JobMachine::Phase::kEnded:
      break;
  }
  return "";
}

}  // namespace

proto::RoundStatus JobMachine::Summary(absl::Time now) const {
  proto::RoundStatus summary;
  summary.set_round(last_round() + 1);
  summary.set_selected(static_cast<int64_t>(round_->options().cohort.size()));
  summary.set_updates(static_cast<int64_t>(updates_.size()));
  uint64_t examples = 0;
  double loss = 0;  // in order of client id, so that the bits do not depend on arrival
  for (const auto& [client, update] : updates_) {
    examples += update.examples();
    loss += update.metrics().loss() * static_cast<double>(update.examples());
  }
  summary.set_examples(examples);
  summary.set_train_loss(examples == 0 ? 0 : loss / static_cast<double>(examples));
  summary.set_train_seconds(absl::ToDoubleSeconds(now - phase_started_));
  summary.set_bytes_up(bytes_up_);
  summary.set_bytes_down(bytes_down_);
  summary.set_abandoned(history_.abandoned);
  return summary;
}

void JobMachine::FillStatus(absl::Time now, proto::JobStatus* status) const {
  status->set_state(state_);
  status->set_message(message_);
  status->set_round(last_round());
  status->set_rounds_total(rounds_total());
  status->set_phase(PhaseName(phase_, history_.started.has_value()));
  uint64_t up = bytes_up_;
  uint64_t down = bytes_down_;
  for (const CommittedRound& round : history_.rounds) {
    up += round.status.bytes_up();
    down += round.status.bytes_down();
    *status->add_rounds() = round.status;
  }
  status->set_bytes_up(up);
  status->set_bytes_down(down);
  const int64_t best = BestRound(history_.rounds);
  status->set_best_round(best);
  if (best > 0) status->set_best_accuracy(history_.rounds[best - 1].status.accuracy());
  status->set_seconds_left(SecondsLeft(now));
  if (round_.has_value() && phase_ != Phase::kEnded) {
    status->set_phase_done(round_->answers());
    status->set_phase_total(static_cast<int64_t>(round_->options().cohort.size()));
  }
}

int64_t JobMachine::rounds_total() const {
  return std::min(config_.stop().rounds(), privacy_rounds_.value_or(config_.stop().rounds()));
}

double JobMachine::SecondsLeft(absl::Time now) const {
  if (phase_ == Phase::kEnded) return 0;
  const std::optional<absl::Duration> typical = TypicalRound(history_.rounds);
  if (!typical.has_value()) return -1;
  const bool round_under_way = phase_ == Phase::kTraining || phase_ == Phase::kAggregating;
  const absl::Duration elapsed = round_under_way ? std::min(now - phase_started_, *typical) : absl::ZeroDuration();
  absl::Duration left = *typical * (rounds_total() - last_round()) - elapsed;
  if (config_.stop().has_time()) {
    const absl::Duration limit = ToDuration(config_.stop().time());
    left = std::min(left, *history_.started + limit - now);
  }
  return std::max(0.0, absl::ToDoubleSeconds(left));
}

}  // namespace weft::server
