#include "server/round/round.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weft::server {

Round::Round(Options options) : options_(std::move(options)) {
  for (const std::string& client : options_.cohort) members_[client];
  counts_[static_cast<size_t>(MemberState::kWorking)] = std::ssize(members_);
}

RoundActions Round::Start(absl::Time now) {
  RoundActions actions;
  for (auto& [client, member] : members_) {
    member.since = now;
    actions.push_back(SendPlan{client});
  }
  return Settle(now, std::move(actions));
}

RoundActions Round::Resume(const std::vector<std::string>& done, absl::Time now) {
  for (auto& [client, member] : members_) {
    const bool is_done = std::find(done.begin(), done.end(), client) != done.end();
    SetState(&member, is_done ? MemberState::kDone : MemberState::kLost);
    member.since = now;
  }
  return Settle(now);
}

RoundActions Round::OnReady(const std::string& client, absl::Time now) {
  Member* member = Find(client);
  if (state_ != State::kOpen || member == nullptr) return {};
  if (member->state == MemberState::kDone || member->state == MemberState::kFailed) return {};
  SetState(member, MemberState::kWorking);
  *member = Member{};
  member->since = now;
  return Settle(now, {SendPlan{client}});
}

RoundActions Round::OnLost(const std::string& client, absl::Time now) {
  Member* member = Find(client);
  if (state_ != State::kOpen || member == nullptr || member->state != MemberState::kWorking) return {};
  SetState(member, MemberState::kLost);
  member->since = now;
  return Settle(now);
}

RoundActions Round::OnGone(const std::string& client, absl::Time now) {
  Member* member = Find(client);
  if (state_ != State::kOpen || member == nullptr) return {};
  if (member->state != MemberState::kWorking && member->state != MemberState::kLost) return {};
  SetState(member, MemberState::kGone);
  return Settle(now);
}

RoundActions Round::OnProgress(const std::string& client, const std::string& activity, int64_t done, absl::Time now) {
  Member* member = Find(client);
  if (state_ != State::kOpen || member == nullptr) return {};
  const bool moved = member->activity != activity || member->done != done;
  if (member->state == MemberState::kWorking && moved) {
    member->since = now;
    member->activity = activity;
    member->done = done;
  }
  return Settle(now);
}

RoundActions Round::OnFailure(const std::string& client, const std::string& reason, absl::Time now) {
  Member* member = Find(client);
  if (state_ != State::kOpen || member == nullptr || member->state == MemberState::kDone) return {};
  SetState(member, MemberState::kFailed);
  member->failure = reason;
  return Settle(now);
}

absl::StatusOr<RoundActions> Round::OnAnswer(const std::string& client, absl::Time now) {
  if (absl::Status status = CheckAnswer(client); !status.ok()) return status;
  Member* member = Find(client);
  SetState(member, MemberState::kDone);
  member->since = now;
  return Settle(now);
}

RoundActions Round::OnTick(absl::Time now) {
  if (state_ != State::kOpen) return {};
  for (auto& [client, member] : members_) {
    if (member.state == MemberState::kLost && !Holds(member, now)) SetState(&member, MemberState::kGone);
  }
  return Settle(now);
}

absl::Status Round::CheckAnswer(const std::string& client) const {
  const auto it = members_.find(client);
  if (it == members_.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("client ", client, " was not asked in this round; wait for a plan"));
  }
  if (it->second.state == MemberState::kDone) {
    return absl::AlreadyExistsError(absl::StrCat("the answer of client ", client, " is in; nothing more to do"));
  }
  if (state_ != State::kOpen) return absl::AbortedError("the round is over; drop this work and wait for a plan");
  if (it->second.state == MemberState::kFailed || it->second.state == MemberState::kGone) {
    return absl::AbortedError(absl::StrCat("client ", client, " has left this round",
                                           it->second.failure.empty() ? "" : " (" + it->second.failure + ")",
                                           "; drop this work and wait for a plan"));
  }
  return absl::OkStatus();
}

bool Round::Stalled(const std::string& client, absl::Time now) const {
  const auto it = members_.find(client);
  return it != members_.end() && it->second.state == MemberState::kWorking && !Holds(it->second, now);
}

int64_t Round::Count(MemberState state) const { return counts_[static_cast<size_t>(state)]; }

void Round::SetState(Member* member, MemberState state) {
  --counts_[static_cast<size_t>(member->state)];
  ++counts_[static_cast<size_t>(state)];
  member->state = state;
}

std::map<std::string, Round::MemberState> Round::Members() const {
  std::map<std::string, MemberState> states;
  for (const auto& [client, member] : members_) states[client] = member.state;
  return states;
}

Round::Member* Round::Find(const std::string& client) {
  const auto it = members_.find(client);
  return it == members_.end() ? nullptr : &it->second;
}

bool Round::Holds(const Member& member, absl::Time now) const {
  if (member.state == MemberState::kWorking) return now < member.since + options_.progress_timeout;
  if (member.state == MemberState::kLost) return now < member.since + options_.rejoin_grace;
  return false;
}

bool Round::Hopeless(absl::Time now) const {
  const int64_t missing = options_.min_answers - answers() - Count(MemberState::kWorking);
  if (missing <= 0 || missing > Count(MemberState::kLost)) return missing > 0;
  const auto may_rejoin = [&](const auto& item) {
    return item.second.state == MemberState::kLost && Holds(item.second, now);
  };
  return std::count_if(members_.begin(), members_.end(), may_rejoin) < missing;
}

bool Round::Waits(absl::Time now) {
  const auto holds = [&](const auto& item) { return Holds(item.second, now); };
  const auto last = members_.lower_bound(waited_for_);
  auto found = std::find_if(last, members_.end(), holds);
  if (found == members_.end()) found = std::find_if(members_.begin(), last, holds);
  if (found == last && (last == members_.end() || !holds(*last))) return false;
  waited_for_ = found->first;
  return true;
}

RoundActions Round::Settle(absl::Time now, RoundActions actions) {
  const bool full = answers() >= options_.close_at;
  // Called at each event, of which a cohort of n has a multiple of n: no pass over all members but where it must be.
  if (!full && !Hopeless(now) && Waits(now)) return actions;
  if (full || answers() >= options_.min_answers) {
    state_ = State::kClosed;
    CancelWorking(now, "the round has closed without this client", &actions);
    actions.emplace_back(CloseRound{});
  } else {
    state_ = State::kAbandoned;
    std::string reason = Shortfall(now);
    CancelWorking(now, "the round was abandoned: " + reason, &actions);
    actions.emplace_back(AbandonRound{std::move(reason)});
  }
  return actions;
}

void Round::CancelWorking(absl::Time now, const std::string& reason, RoundActions* actions) const {
  for (const auto& [client, member] : members_) {
    if (member.state != MemberState::kWorking) continue;
    actions->push_back(CancelWork{client, reason, !Holds(member, now)});
  }
}

std::string Round::Shortfall(absl::Time now) const {
  std::string text = absl::StrCat(answers(), " of at least ", options_.min_answers, " answers from ", members_.size(),
                                  " clients asked");
  for (const auto& [client, member] : members_) {
    if (member.state == MemberState::kFailed) {
      absl::StrAppend(&text, "; ", client, " failed: ", member.failure);
    } else if (member.state == MemberState::kGone || member.state == MemberState::kLost) {
      absl::StrAppend(&text, "; ", client, " left");
    } else if (member.state == MemberState::kWorking && !Holds(member, now)) {
      absl::StrAppend(&text, "; ", client, " has not moved for ", absl::FormatDuration(options_.progress_timeout));
    }
    if (text.size() > 500) return text + "; ...";
  }
  return text;
}

}  // namespace weft::server
