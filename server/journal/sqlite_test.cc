#include "server/journal/sqlite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace weft::server {
namespace {

using ::testing::HasSubstr;

std::string PathOf(const char* name) { return testing::TempDir() + "/" + name; }

int64_t CountRows(Database* database) {
  Statement count(database, "SELECT count(*) FROM t");
  EXPECT_TRUE(*count.Step());
  return count.Integer(0);
}

TEST(DatabaseTest, Transaction_AllOrNothing) {
  auto database = Database::Open(PathOf("transaction.db"));
  ASSERT_TRUE(database.ok());
  ASSERT_TRUE((*database)->Execute("CREATE TABLE t (a BLOB PRIMARY KEY)").ok());
  const absl::Status failed = (*database)->Transaction([&]() -> absl::Status {
    EXPECT_TRUE(Statement(database->get(), "INSERT INTO t VALUES (?)").Bind("x").Run().ok());
    return absl::AbortedError("changed my mind");
  });
  EXPECT_EQ(failed.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(CountRows(database->get()), 0);
  EXPECT_TRUE((*database)
                  ->Transaction([&] { return Statement(database->get(), "INSERT INTO t VALUES (?)").Bind("x").Run(); })
                  .ok());
  EXPECT_EQ(CountRows(database->get()), 1);
}

TEST(DatabaseTest, Execute_FullIsResourceExhaustedAndLeavesNoTrace) {
  auto database = Database::Open(PathOf("full.db"));
  ASSERT_TRUE(database.ok());
  ASSERT_TRUE((*database)->Execute("CREATE TABLE t (a BLOB); PRAGMA max_page_count = 4").ok());
  const absl::Status status = (*database)->Transaction(
      [&] { return Statement(database->get(), "INSERT INTO t VALUES (?)").Bind(std::string(1 << 20, 'x')).Run(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("free space"));
  EXPECT_EQ(CountRows(database->get()), 0);
  ASSERT_TRUE((*database)->Execute("PRAGMA max_page_count = 100000").ok());
  EXPECT_TRUE(Statement(database->get(), "INSERT INTO t VALUES (?)").Bind("x").Run().ok());
}

TEST(DatabaseTest, Open_NotADatabaseIsDataLoss) {
  std::ofstream(PathOf("garbage.db")) << std::string(4096, 'g');
  auto database = Database::Open(PathOf("garbage.db"));
  ASSERT_TRUE(database.ok());
  EXPECT_EQ((*database)->Execute("CREATE TABLE t (a BLOB)").code(), absl::StatusCode::kDataLoss);
}

TEST(DatabaseTest, Execute_LockedByAnotherFailsPrecondition) {
  auto first = Database::Open(PathOf("locked.db"));
  auto second = Database::Open(PathOf("locked.db"));
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_TRUE((*first)->Execute("BEGIN EXCLUSIVE").ok());
  EXPECT_EQ((*second)->Execute("BEGIN EXCLUSIVE").code(), absl::StatusCode::kFailedPrecondition);
}

TEST(DatabaseTest, Open_MissingFolderNamesThePath) {
  auto database = Database::Open(PathOf("no/such/folder.db"));
  ASSERT_FALSE(database.ok());
  EXPECT_THAT(database.status().message(), HasSubstr("no/such/folder.db"));
}

TEST(StatementTest, Bind_RoundTripsBytesIntegersAndNull) {
  auto database = Database::Open(PathOf("bind.db"));
  ASSERT_TRUE((*database)->Execute("CREATE TABLE t (a BLOB, b INTEGER, c BLOB)").ok());
  const std::string bytes("a\0b", 3);
  ASSERT_TRUE(Statement(database->get(), "INSERT INTO t VALUES (?, ?, ?)").Bind(bytes).Bind(-7).BindNull().Run().ok());
  Statement select(database->get(), "SELECT a, b, c FROM t");
  ASSERT_TRUE(*select.Step());
  EXPECT_EQ(select.Bytes(0), bytes);
  EXPECT_EQ(select.Integer(1), -7);
  EXPECT_TRUE(select.IsNull(2));
  EXPECT_FALSE(*select.Step());
}

TEST(StatementTest, Bind_EmptyBytesAreNotNull) {
  auto database = Database::Open(PathOf("empty.db"));
  ASSERT_TRUE((*database)->Execute("CREATE TABLE t (a BLOB NOT NULL)").ok());
  EXPECT_TRUE(Statement(database->get(), "INSERT INTO t VALUES (?)").Bind(std::string_view()).Run().ok());
}

TEST(StatementTest, Step_BadSqlIsAnError) {
  auto database = Database::Open(PathOf("bad.db"));
  EXPECT_FALSE(Statement(database->get(), "SELECT * FROM nowhere").Run().ok());
}

}  // namespace
}  // namespace weft::server
