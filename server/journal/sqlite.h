#ifndef WEFT_SERVER_JOURNAL_SQLITE_H_
#define WEFT_SERVER_JOURNAL_SQLITE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct sqlite3;
struct sqlite3_stmt;

namespace weft::server {

// One SQLite database. Not thread-safe. Errors carry the path and SQLite's text: RESOURCE_EXHAUSTED disk full;
// DATA_LOSS damaged or not a database; FAILED_PRECONDITION in use by another process; else INTERNAL.
class Database {
 public:
  // Made when missing.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Statements without parameters or results.
  absl::Status Execute(const std::string& sql);
  // Runs `body` as one transaction: all of it or, when it or the commit fails, nothing.
  template <typename Body>
  absl::Status Transaction(Body body) {
    absl::Status status = Execute("BEGIN IMMEDIATE");
    if (!status.ok()) return status;
    status = body();
    if (status.ok()) status = Execute("COMMIT");
    if (!status.ok()) Rollback();
    return status;
  }

 private:
  friend class Statement;
  Database(sqlite3* handle, std::string path) : handle_(handle), path_(std::move(path)) {}
  absl::Status Error(const char* doing) const;
  void Rollback();

  sqlite3* handle_;
  std::string path_;
};

// One prepared statement, used once: Bind in order, then Step through the rows or Run. An error of Bind or of preparing
// shows at Step.
class Statement {
 public:
  Statement(Database* database, const char* sql);
  ~Statement();
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Bind(int64_t value);
  Statement& Bind(std::string_view bytes);
  Statement& BindNull();

  // True: a row can be read.
  absl::StatusOr<bool> Step();
  // For statements without rows.
  absl::Status Run();

  int64_t Integer(int column) const;
  std::string Bytes(int column) const;
  bool IsNull(int column) const;

 private:
  Database* database_;
  sqlite3_stmt* handle_ = nullptr;
  int bound_ = 0;
  int result_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_JOURNAL_SQLITE_H_
