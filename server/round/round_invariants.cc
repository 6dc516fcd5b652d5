#include "server/round/round_invariants.h"

#include "absl/strings/str_cat.h"

namespace weft::server {

using MemberState = Round::MemberState;

std::string RoundInvariants::Check(const Round& round, const RoundActions& actions) {
  for (const std::string& broken : {CheckCounts(round), CheckHistory(round), CheckActions(round, actions)}) {
    if (!broken.empty()) return broken;
  }
  last_state_ = round.state();
  last_members_ = round.Members();
  return "";
}

std::string RoundInvariants::CheckCounts(const Round& round) const {
  const Round::Options& options = round.options();
  if (round.Members().size() != options.cohort.size()) return "members and cohort differ in number";
  const int64_t done = round.answers();
  if (done > options.close_at) return absl::StrCat(done, " answers taken, closes at ", options.close_at);
  switch (round.state()) {
    case Round::State::kOpen:
      if (done == options.close_at) return "open with all answers in";
      if (round.Count(MemberState::kWorking) + round.Count(MemberState::kLost) == 0) return "open without anybody left";
      break;
    case Round::State::kClosed:
      if (done < options.min_answers) return "closed with too few answers";
      break;
    case Round::State::kAbandoned:
      if (done >= options.min_answers) return "abandoned with enough answers";
      break;
  }
  return "";
}

std::string RoundInvariants::CheckHistory(const Round& round) const {
  if (last_state_ != Round::State::kOpen && round.state() != last_state_) return "an ended round changed its state";
  for (const auto& [client, state] : round.Members()) {
    const auto before = last_members_.find(client);
    if (before == last_members_.end() || before->second == state) continue;
    if (last_state_ != Round::State::kOpen) return client + " changed after the end";
    if (before->second == MemberState::kDone) return client + " lost its answer";
    if (before->second == MemberState::kFailed) return client + " came back after failing";
  }
  return "";
}

std::string RoundInvariants::CheckActions(const Round& round, const RoundActions& actions) {
  const std::map<std::string, MemberState> members = round.Members();
  for (const RoundAction& action : actions) {
    if (ended_) return "an action after the end";
    if (const auto* plan = std::get_if<SendPlan>(&action)) {
      if (!members.contains(plan->client)) return plan->client + " asked though not selected";
      holding_plan_.insert(plan->client);
    } else if (const auto* cancel = std::get_if<CancelWork>(&action)) {
      if (holding_plan_.erase(cancel->client) == 0) return cancel->client + " cancelled without a plan";
      if (members.at(cancel->client) == MemberState::kDone) return cancel->client + " cancelled after its answer";
    } else if (std::holds_alternative<CloseRound>(action)) {
      if (round.state() != Round::State::kClosed) return "closing action of a round not closed";
      ended_ = true;
    } else {
      if (round.state() != Round::State::kAbandoned) return "abandoning action of a round not abandoned";
      ended_ = true;
    }
  }
  if (ended_ != (round.state() != Round::State::kOpen)) return "state and actions disagree on the end";
  if (!ended_) return "";
  for (const std::string& client : holding_plan_) {
    if (members.at(client) == MemberState::kWorking) return client + " still works after the end";
  }
  return "";
}

}  // namespace weft::server
