#include "server/journal/journal.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace weft::server {
namespace {

constexpr char kSchema[] = R"sql(
CREATE TABLE jobs (
  number INTEGER PRIMARY KEY,       -- order of submission
  id BLOB NOT NULL UNIQUE,
  config BLOB NOT NULL,             -- proto JobConfig
  state INTEGER NOT NULL,
  message BLOB NOT NULL,
  submitted_us INTEGER NOT NULL,    -- Unix time, microseconds
  started_us INTEGER,
  ended_us INTEGER,
  abandoned INTEGER NOT NULL,       -- attempts of the next round given up
  initial_state BLOB NOT NULL,
  initial_layout BLOB NOT NULL      -- proto Layout
);
CREATE TABLE rounds (
  job BLOB NOT NULL,
  round INTEGER NOT NULL,
  facts BLOB NOT NULL,              -- proto RoundStatus
  evaluated INTEGER NOT NULL,
  state BLOB,                       -- NULL once retired
  layout BLOB,                      -- of the state
  step BLOB,                        -- what the round added to the base; NULL: nothing
  step_layout BLOB,
  PRIMARY KEY (job, round)
) WITHOUT ROWID;
CREATE TABLE attempts (             -- the one under way
  job BLOB PRIMARY KEY,
  cohort BLOB NOT NULL,             -- client ids, a line each
  started_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE updates (              -- accepted ones of the attempt
  job BLOB NOT NULL,
  client BLOB NOT NULL,
  facts BLOB NOT NULL,              -- proto Update
  tensors BLOB NOT NULL,            -- as received
  encoding BLOB NOT NULL,
  PRIMARY KEY (job, client)
) WITHOUT ROWID;
)sql";

std::string Text(const Layout& layout) { return layout.ToProto().SerializeAsString(); }

absl::StatusOr<int64_t> ReadInteger(Database* database, const char* sql) {
  Statement statement(database, sql);
  WEFT_RETURN_IF_ERROR(statement.Step().status());
  return statement.Integer(0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(const std::string& folder) {
  WEFT_RETURN_IF_ERROR(MakeDirectories(folder));
  WEFT_ASSIGN_OR_RETURN(StateLock lock, StateLock::Take(folder));
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Database> database, Database::Open(folder + "/journal.db"));
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<TensorStore> tensors, TensorStore::Open(folder + "/tensors"));
  std::unique_ptr<Journal> journal(new Journal(std::move(lock), std::move(database), std::move(tensors)));
  WEFT_RETURN_IF_ERROR(journal->Prepare());
  return journal;
}

absl::Status Journal::Prepare() {
  // The first read finds out whether the file is a database at all.
  WEFT_ASSIGN_OR_RETURN(const int64_t version, ReadInteger(database_.get(), "PRAGMA user_version"));
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the journal has version ", version,
                                                      ", this coordinator knows up to ", kSchemaVersion,
                                                      "; run the newer coordinator that wrote it"));
  }
  if (version > 0 && version < kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the journal has version ", version, ", this coordinator writes ", kSchemaVersion,
                     " and can't go on from there (updates were whole values, they are deltas now); let the older ",
                     "coordinator finish and export its jobs, then start with an empty state folder"));
  }
  {
    Statement check(database_.get(), "PRAGMA quick_check(1)");
    WEFT_RETURN_IF_ERROR(check.Step().status());
    if (check.Bytes(0) != "ok") {
      return absl::DataLossError(absl::StrCat("the journal is damaged: ", check.Bytes(0),
                                              "; restore the state folder from a copy, or start with an empty one"));
    }
  }
  WEFT_RETURN_IF_ERROR(database_->Execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL"));
  if (version == 0) {
    WEFT_RETURN_IF_ERROR(database_->Transaction(
        [&] { return database_->Execute(absl::StrCat(kSchema, "PRAGMA user_version = ", kSchemaVersion)); }));
  }
  std::set<std::string> named;
  Statement all(database_.get(),
                "SELECT initial_state FROM jobs UNION SELECT state FROM rounds WHERE state IS NOT NULL "
                "UNION SELECT step FROM rounds WHERE step IS NOT NULL UNION SELECT tensors FROM updates");
  WEFT_RETURN_IF_ERROR(Collect(all, &named));
  return tensors_->RemoveAllBut(named);
}

absl::StatusOr<int64_t> Journal::CountJobs() { return ReadInteger(database_.get(), "SELECT count(*) FROM jobs"); }

absl::Status Journal::AddJob(const StoredJob& job) {
  Statement insert(database_.get(),
                   "INSERT INTO jobs (id, config, state, message, submitted_us, abandoned, initial_state, "
                   "initial_layout) VALUES (?, ?, ?, ?, ?, 0, ?, ?)");
  insert.Bind(job.id).Bind(job.config.SerializeAsString()).Bind(job.state).Bind(job.message);
  const StoredTensors& initial = job.states.at(0);
  return insert.Bind(absl::ToUnixMicros(job.submitted)).Bind(initial.hash).Bind(Text(*initial.layout)).Run();
}

absl::Status Journal::OpenAttemptOf(const std::string& job, const std::vector<std::string>& cohort, absl::Time started,
                                    absl::Time now) {
  std::set<std::string> retired;
  WEFT_RETURN_IF_ERROR(database_->Transaction([&]() -> absl::Status {
    WEFT_RETURN_IF_ERROR(DeleteOpenAttempt(job, &retired));
    Statement insert(database_.get(), "INSERT INTO attempts (job, cohort, started_us) VALUES (?, ?, ?)");
    WEFT_RETURN_IF_ERROR(insert.Bind(job).Bind(absl::StrJoin(cohort, "\n")).Bind(absl::ToUnixMicros(now)).Run());
    Statement update(database_.get(), "UPDATE jobs SET state = ?, message = '', started_us = ? WHERE id = ?");
    return update.Bind(proto::RUNNING).Bind(absl::ToUnixMicros(started)).Bind(job).Run();
  }));
  RemoveUnnamed(retired);
  return absl::OkStatus();
}

absl::Status Journal::AddUpdate(const std::string& job, const proto::Update& update, const StoredUpdate& tensors) {
  Statement insert(database_.get(),
                   "INSERT INTO updates (job, client, facts, tensors, encoding) VALUES (?, ?, ?, ?, ?)");
  insert.Bind(job).Bind(update.client_id()).Bind(update.SerializeAsString());
  return insert.Bind(tensors.hash).Bind(tensors.encoding).Run();
}

absl::Status Journal::DropAttempt(const std::string& job, int64_t abandoned) {
  std::set<std::string> retired;
  WEFT_RETURN_IF_ERROR(database_->Transaction([&]() -> absl::Status {
    WEFT_RETURN_IF_ERROR(DeleteOpenAttempt(job, &retired));
    Statement update(database_.get(), "UPDATE jobs SET abandoned = ? WHERE id = ?");
    return update.Bind(abandoned).Bind(job).Run();
  }));
  RemoveUnnamed(retired);
  return absl::OkStatus();
}

absl::Status Journal::CommitRound(const std::string& job, const CommittedRound& round, const RoundTensors& tensors,
                                  int64_t best) {
  std::set<std::string> retired;
  WEFT_RETURN_IF_ERROR(database_->Transaction([&]() -> absl::Status {
    Statement insert(database_.get(),
                     "INSERT INTO rounds (job, round, facts, evaluated, state, layout, step, step_layout) "
                     "VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
    insert.Bind(job).Bind(round.status.round()).Bind(round.status.SerializeAsString());
    insert.Bind(static_cast<int64_t>(round.evaluated)).Bind(tensors.state.hash).Bind(Text(*tensors.state.layout));
    if (tensors.base_step.has_value()) {
      insert.Bind(tensors.base_step->hash).Bind(Text(*tensors.base_step->layout));
    } else {
      insert.BindNull().BindNull();
    }
    WEFT_RETURN_IF_ERROR(insert.Run());
    WEFT_RETURN_IF_ERROR(DeleteOpenAttempt(job, &retired));
    WEFT_RETURN_IF_ERROR(ForgetStates(job, best, &retired));
    Statement update(database_.get(), "UPDATE jobs SET abandoned = 0 WHERE id = ?");
    return update.Bind(job).Run();
  }));
  RemoveUnnamed(retired);
  return absl::OkStatus();
}

absl::Status Journal::SaveRound(const std::string& job, const CommittedRound& round) {
  Statement update(database_.get(), "UPDATE rounds SET facts = ?, evaluated = ? WHERE job = ? AND round = ?");
  update.Bind(round.status.SerializeAsString()).Bind(static_cast<int64_t>(round.evaluated));
  return update.Bind(job).Bind(round.status.round()).Run();
}

absl::Status Journal::EndJob(const std::string& job, proto::JobState state, const std::string& message, absl::Time now,
                             int64_t best) {
  std::set<std::string> retired;
  WEFT_RETURN_IF_ERROR(database_->Transaction([&]() -> absl::Status {
    WEFT_RETURN_IF_ERROR(DeleteOpenAttempt(job, &retired));
    WEFT_RETURN_IF_ERROR(ForgetStates(job, best, &retired));
    Statement update(database_.get(), "UPDATE jobs SET state = ?, message = ?, ended_us = ? WHERE id = ?");
    return update.Bind(state).Bind(message).Bind(absl::ToUnixMicros(now)).Bind(job).Run();
  }));
  RemoveUnnamed(retired);
  return absl::OkStatus();
}

absl::Status Journal::DeleteOpenAttempt(const std::string& job, std::set<std::string>* retired) {
  Statement updates(database_.get(), "SELECT tensors FROM updates WHERE job = ?");
  updates.Bind(job);
  WEFT_RETURN_IF_ERROR(Collect(updates, retired));
  Statement delete_updates(database_.get(), "DELETE FROM updates WHERE job = ?");
  WEFT_RETURN_IF_ERROR(delete_updates.Bind(job).Run());
  Statement delete_attempt(database_.get(), "DELETE FROM attempts WHERE job = ?");
  return delete_attempt.Bind(job).Run();
}

absl::Status Journal::ForgetStates(const std::string& job, int64_t best, std::set<std::string>* retired) {
  constexpr char kOthers[] =
      "job = ?1 AND state IS NOT NULL AND round <> ?2 AND round < (SELECT max(round) FROM rounds WHERE job = ?1)";
  const std::string select = absl::StrCat("SELECT state FROM rounds WHERE ", kOthers);
  Statement others(database_.get(), select.c_str());
  others.Bind(job).Bind(best);
  WEFT_RETURN_IF_ERROR(Collect(others, retired));
  const std::string forget = absl::StrCat("UPDATE rounds SET state = NULL, layout = NULL WHERE ", kOthers);
  Statement update(database_.get(), forget.c_str());
  return update.Bind(job).Bind(best).Run();
}

absl::Status Journal::Collect(Statement& statement, std::set<std::string>* hashes) {
  while (true) {
    WEFT_ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) return absl::OkStatus();
    hashes->insert(statement.Bytes(0));
  }
}

void Journal::RemoveUnnamed(const std::set<std::string>& retired) {
  for (const std::string& hash : retired) {
    Statement named(
        database_.get(),
        "SELECT 1 FROM jobs WHERE initial_state = ?1 UNION ALL SELECT 1 FROM rounds WHERE state = ?1 OR step = ?1 "
        "UNION ALL SELECT 1 FROM updates WHERE tensors = ?1 LIMIT 1");
    named.Bind(hash);
    const absl::StatusOr<bool> still_named = named.Step();
    if (still_named.ok() && !*still_named) tensors_->Remove(hash);
  }
}

}  // namespace weft::server
