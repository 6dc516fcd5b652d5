// The part of Journal that reads jobs back.

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "server/journal/journal.h"

namespace weft::server {
namespace {

template <typename Message>
absl::Status Parse(const std::string& bytes, const std::string& what, Message* message) {
  if (message->ParseFromString(bytes)) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the journal is damaged: ", what,
                   " can't be read; restore the state folder from a copy, or start with an empty one"));
}

absl::StatusOr<StoredTensors> ReadTensors(const Statement& row, int column, const std::string& what) {
  proto::Layout text;
  WEFT_RETURN_IF_ERROR(Parse(row.Bytes(column + 1), absl::StrCat("the layout of ", what), &text));
  absl::StatusOr<std::shared_ptr<const Layout>> layout = Layout::FromProto(text);
  if (layout.ok()) return StoredTensors{row.Bytes(column), *std::move(layout)};
  return absl::DataLossError(absl::StrCat("the journal is damaged: the layout of ", what, ": ",
                                          layout.status().message(),
                                          "; restore the state folder from a copy, or start with an empty one"));
}

}  // namespace

absl::StatusOr<std::vector<StoredJob>> Journal::Load() {
  std::vector<StoredJob> jobs;
  Statement select(database_.get(),
                   "SELECT id, config, state, message, submitted_us, started_us, ended_us, abandoned, initial_state, "
                   "initial_layout FROM jobs ORDER BY number");
  while (true) {
    WEFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (!row) break;
    StoredJob& job = jobs.emplace_back();
    job.id = select.Bytes(0);
    WEFT_RETURN_IF_ERROR(Parse(select.Bytes(1), absl::StrCat("the config of job ", job.id), &job.config));
    job.state = static_cast<proto::JobState>(select.Integer(2));
    job.message = select.Bytes(3);
    job.submitted = absl::FromUnixMicros(select.Integer(4));
    if (!select.IsNull(5)) job.history.started = absl::FromUnixMicros(select.Integer(5));
    if (!select.IsNull(6)) job.ended = absl::FromUnixMicros(select.Integer(6));
    job.history.abandoned = select.Integer(7);
    WEFT_ASSIGN_OR_RETURN(job.states[0], ReadTensors(select, 8, absl::StrCat("job ", job.id)));
  }
  for (StoredJob& job : jobs) {
    WEFT_RETURN_IF_ERROR(LoadRounds(&job));
    WEFT_RETURN_IF_ERROR(LoadOpenAttempt(&job));
  }
  return jobs;
}

absl::Status Journal::LoadRounds(StoredJob* job) {
  Statement select(
      database_.get(),
      "SELECT round, facts, evaluated, state, layout, step, step_layout FROM rounds WHERE job = ? ORDER BY round");
  select.Bind(job->id);
  while (true) {
    WEFT_ASSIGN_OR_RETURN(const bool row, select.Step());
    if (!row) return absl::OkStatus();
    CommittedRound& round = job->history.rounds.emplace_back();
    const int64_t number = select.Integer(0);
    WEFT_RETURN_IF_ERROR(Parse(select.Bytes(1), absl::StrCat("round ", number, " of job ", job->id), &round.status));
    if (number != static_cast<int64_t>(job->history.rounds.size()) || round.status.round() != number) {
      return absl::DataLossError(absl::StrCat("the journal is damaged: found round ", number, " of job ", job->id,
                                              ", expected round ", job->history.rounds.size(),
                                              "; restore the state folder from a copy, or start with an empty one"));
    }
    round.evaluated = static_cast<Evaluated>(select.Integer(2));
    const std::string what = absl::StrCat("round ", number, " of job ", job->id);
    if (!select.IsNull(3)) {
      WEFT_ASSIGN_OR_RETURN(job->states[number], ReadTensors(select, 3, what));
    }
    if (!select.IsNull(5)) {
      WEFT_ASSIGN_OR_RETURN(job->base_steps[number], ReadTensors(select, 5, what));
    }
  }
}

absl::Status Journal::LoadOpenAttempt(StoredJob* job) {
  Statement attempt(database_.get(), "SELECT cohort, started_us FROM attempts WHERE job = ?");
  attempt.Bind(job->id);
  WEFT_ASSIGN_OR_RETURN(const bool found, attempt.Step());
  if (!found) return absl::OkStatus();
  OpenAttempt& open = job->history.open.emplace();
  open.cohort = absl::StrSplit(attempt.Bytes(0), '\n', absl::SkipEmpty());
  open.started = absl::FromUnixMicros(attempt.Integer(1));
  Statement updates(database_.get(),
                    "SELECT client, facts, tensors, encoding FROM updates WHERE job = ? ORDER BY client");
  updates.Bind(job->id);
  while (true) {
    WEFT_ASSIGN_OR_RETURN(const bool row, updates.Step());
    if (!row) return absl::OkStatus();
    const std::string client = updates.Bytes(0);
    WEFT_RETURN_IF_ERROR(
        Parse(updates.Bytes(1), absl::StrCat("the update of client ", client), &open.updates.emplace_back()));
    job->update_tensors[client] = {updates.Bytes(2), updates.Bytes(3)};
  }
}

}  // namespace weft::server
