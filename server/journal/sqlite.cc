#include "server/journal/sqlite.h"

#include <sqlite3.h>

#include "absl/strings/str_cat.h"

namespace weft::server {
namespace {

// A quota or a limit on file size shows as a failed write, not as SQLITE_FULL.
bool IsDiskFull(int extended_code) {
  return extended_code == SQLITE_FULL || extended_code == SQLITE_IOERR_WRITE || extended_code == SQLITE_IOERR_SHMSIZE;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path) {
  sqlite3* handle = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  std::unique_ptr<Database> database(new Database(handle, path));
  if (code != SQLITE_OK) return database->Error("opening");
  return database;
}

Database::~Database() { sqlite3_close(handle_); }

absl::Status Database::Execute(const std::string& sql) {
  if (sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK) return absl::OkStatus();
  return Error("writing");
}

absl::Status Database::Error(const char* doing) const {
  const int code = handle_ == nullptr ? SQLITE_NOMEM : sqlite3_extended_errcode(handle_);
  const std::string found = absl::StrCat(doing, " ", path_, ": ", sqlite3_errmsg(handle_));
  if (IsDiskFull(code)) {
    return absl::ResourceExhaustedError(absl::StrCat(found, "; disk full? free space for the state folder"));
  }
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(
          absl::StrCat(found, "; restore the state folder from a copy, or start with an empty one"));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::FailedPreconditionError(absl::StrCat(found, "; another process uses it, stop that one first"));
    case SQLITE_NOMEM:
      return absl::ResourceExhaustedError(found);
    default:
      return absl::InternalError(found);
  }
}

void Database::Rollback() {
  // Fails only where SQLite has rolled back by itself.
  if (sqlite3_get_autocommit(handle_) == 0) sqlite3_exec(handle_, "ROLLBACK", nullptr, nullptr, nullptr);
}

Statement::Statement(Database* database, const char* sql) : database_(database) {
  result_ = sqlite3_prepare_v2(database->handle_, sql, -1, &handle_, nullptr);
}

Statement::~Statement() { sqlite3_finalize(handle_); }

Statement& Statement::Bind(int64_t value) {
  if (result_ == SQLITE_OK) result_ = sqlite3_bind_int64(handle_, ++bound_, value);
  return *this;
}

Statement& Statement::Bind(std::string_view bytes) {
  if (result_ == SQLITE_OK) {
    // An empty view may hold a null pointer, which SQLite would take for NULL.
    const char* data = bytes.empty() ? "" : bytes.data();
    result_ = sqlite3_bind_blob64(handle_, ++bound_, data, bytes.size(), SQLITE_TRANSIENT);
  }
  return *this;
}

Statement& Statement::BindNull() {
  if (result_ == SQLITE_OK) result_ = sqlite3_bind_null(handle_, ++bound_);
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  if (result_ != SQLITE_OK) return database_->Error("preparing a statement on");
  switch (sqlite3_step(handle_)) {
    case SQLITE_ROW:
      return true;
    case SQLITE_DONE:
      return false;
    default:
      return database_->Error("writing");
  }
}

absl::Status Statement::Run() { return Step().status(); }

int64_t Statement::Integer(int column) const { return sqlite3_column_int64(handle_, column); }

std::string Statement::Bytes(int column) const {
  const void* data = sqlite3_column_blob(handle_, column);
  return std::string(static_cast<const char*>(data), static_cast<size_t>(sqlite3_column_bytes(handle_, column)));
}

bool Statement::IsNull(int column) const { return sqlite3_column_type(handle_, column) == SQLITE_NULL; }

}  // namespace weft::server
