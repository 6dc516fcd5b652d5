#include "simulation/ranks/workers.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "simulation/ranks/convert.h"

namespace weft::simulation {

absl::Status Workers::Send(int rank, const Command& command) {
  WEFT_ASSIGN_OR_RETURN(const std::string bytes, ToBytes(command));
  return link_->Send(rank, bytes);
}

absl::Status Workers::SendAll(const Command& command) {
  WEFT_ASSIGN_OR_RETURN(const std::string bytes, ToBytes(command));
  for (int rank = 1; rank < ranks(); ++rank) WEFT_RETURN_IF_ERROR(link_->Send(rank, bytes));
  return absl::OkStatus();
}

absl::StatusOr<Answer> Workers::ReceiveAnswer(int rank) {
  answer_due_[rank] = false;
  WEFT_ASSIGN_OR_RETURN(const std::string bytes, link_->Receive(rank));
  Answer answer;
  if (!answer.ParseFromString(bytes)) return absl::InternalError(absl::StrCat("rank ", rank, ": a garbled answer"));
  if (answer.code() != 0) return StatusOf(answer.code(), absl::StrCat("rank ", rank, ": ", answer.message()));
  return answer;
}

absl::Status Workers::OpenRun(const simulation::OpenRun& run) {
  steps_sent_ = 0;
  Command command;
  *command.mutable_run() = run;
  return SendAll(command);
}

absl::Status Workers::OpenAttempt(int64_t round, int64_t updates, const Adapter& state,
                                  const std::vector<std::pair<int64_t, std::shared_ptr<const Adapter>>>& base_steps) {
  for (std::vector<int64_t>& clients : accepted_) clients.clear();
  for (; steps_sent_ < base_steps.size(); ++steps_sent_) {
    Command command;
    command.mutable_step()->set_round(base_steps[steps_sent_].first);
    ToMessage(*base_steps[steps_sent_].second, command.mutable_step()->mutable_step());
    WEFT_RETURN_IF_ERROR(SendAll(command));
  }
  Command command;
  command.mutable_attempt()->set_round(round);
  command.mutable_attempt()->set_updates(updates);
  ToMessage(state, command.mutable_attempt()->mutable_state());
  return SendAll(command);
}

absl::Status Workers::Train(int rank, const std::vector<std::vector<int64_t>>& groups,
                            const std::function<absl::StatusOr<std::shared_ptr<const KeptState>>(int64_t)>& kept) {
  Command command;
  for (const std::vector<int64_t>& clients : groups) {
    TrainGroups::Group& group = *command.mutable_train()->add_groups();
    for (const int64_t index : clients) {
      TrainGroups::Client& client = *group.add_clients();
      client.set_index(index);
      WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const KeptState> state, kept(index));
      if (!state->empty()) ToMessage(*state, client.mutable_kept());
    }
  }
  const std::vector<int64_t> accepted = std::exchange(accepted_[rank], {});
  command.mutable_train()->mutable_accepted()->Add(accepted.begin(), accepted.end());
  WEFT_RETURN_IF_ERROR(Send(rank, command));
  answer_due_[rank] = true;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<absl::StatusOr<SentUpdate>>> Workers::Trained(int rank) {
  WEFT_ASSIGN_OR_RETURN(Answer answer, ReceiveAnswer(rank));
  std::vector<absl::StatusOr<SentUpdate>> results;
  for (simulation::Trained& trained : *answer.mutable_trained()) {
    if (trained.code() != 0) {
      results.emplace_back(StatusOf(trained.code(), trained.message()));
      continue;
    }
    SentUpdate sent{.facts = std::move(*trained.mutable_facts()),
                    .tensors = std::nullopt,
                    .rank = rank,
                    .bytes = trained.bytes(),
                    .valid = StatusOf(trained.valid_code(), trained.valid_message()),
                    .next = {}};
    WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const KeptState> next, FromMessage(trained.next()));
    sent.next = *next;
    results.emplace_back(std::move(sent));
  }
  return results;
}

absl::Status Workers::MergeInto(server::Fold* fold) {
  for (int rank = 1; rank < ranks(); ++rank) {
    Command command;
    const std::vector<int64_t> accepted = std::exchange(accepted_[rank], {});
    command.mutable_share()->mutable_accepted()->Add(accepted.begin(), accepted.end());
    WEFT_RETURN_IF_ERROR(Send(rank, command));
    answer_due_[rank] = true;
  }
  for (int rank = 1; rank < ranks(); ++rank) {
    WEFT_ASSIGN_OR_RETURN(const Answer answer, ReceiveAnswer(rank));
    if (answer.folded() == 0) continue;
    WEFT_ASSIGN_OR_RETURN(const std::string sum, link_->Receive(rank));
    WEFT_RETURN_IF_ERROR(fold->Merge(sum));
  }
  return absl::OkStatus();
}

void Workers::Quit(int exit_code) {
  Command command;
  command.mutable_quit()->set_exit_code(exit_code);
  for (int rank = 1; rank < ranks(); ++rank) {
    // A rank that answers takes no command until its answer is taken.
    if (answer_due_[rank]) {
      const absl::StatusOr<Answer> answer = ReceiveAnswer(rank);
      if (answer.ok() && answer->folded() > 0) link_->Receive(rank).IgnoreError();
    }
    Send(rank, command).IgnoreError();
  }
}

}  // namespace weft::simulation
