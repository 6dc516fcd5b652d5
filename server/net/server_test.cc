#include "server/net/server.h"

#include <gtest/gtest.h>
#include <httplib.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

#include "common/file.h"
#include "server/net/testing/fake_coordinator.h"

namespace weft::server {
namespace {

class ServerTest : public testing::Test {
 protected:
  ServerTest() : fake_(*Layout::Create({{"w", "head", {2}}})) {
    options_.config.set_listen("127.0.0.1:0");
    options_.config.set_page("127.0.0.1:0");
    options_.config.set_chunk_bytes(1024);
    options_.config.set_max_message_bytes(65536);
    options_.coordinator = &fake_;
  }

  FakeCoordinator fake_;
  Server::Options options_;
};

TEST_F(ServerTest, Start_ServesThePageAndWritesThePortsFile) {
  const std::string path = testing::TempDir() + "/ports";
  options_.config.set_ports_file(path);
  const auto server = Server::Start(options_);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(*ReadFile(path), "grpc=" + std::to_string((*server)->grpc_port()) +
                                 " page=" + std::to_string((*server)->page_port()) + "\n");
  const auto answer = httplib::Client("127.0.0.1", (*server)->page_port()).Get("/api/status");
  ASSERT_TRUE(answer);
  EXPECT_NE(answer->body.find("\"RUNNING\""), std::string::npos) << answer->body;
}

TEST_F(ServerTest, Start_WithoutAPage) {
  options_.config.set_page("off");
  const auto server = Server::Start(options_);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ((*server)->page_port(), 0);
}

TEST_F(ServerTest, Start_RefusesAddressesBeyondLoopback) {
  options_.config.set_listen("0.0.0.0:0");
  absl::Status status = Server::Start(options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("listen: 0.0.0.0:0 can be reached"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("--insecure"), absl::string_view::npos) << status;
  options_.config.set_listen("127.0.0.1:0");
  options_.config.set_page("0.0.0.0:0");
  status = Server::Start(options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("page: 0.0.0.0:0"), absl::string_view::npos) << status;
}

TEST_F(ServerTest, Start_InsecureAllowsAddressesBeyondLoopback) {
  options_.config.set_listen("0.0.0.0:0");
  options_.config.set_page("0.0.0.0:0");
  options_.insecure = true;
  const auto server = Server::Start(options_);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto answer = httplib::Client("127.0.0.1", (*server)->page_port()).Get("/healthz", {{"Host", "any.name"}});
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
}

TEST_F(ServerTest, Start_PortInUse) {
  const auto first = Server::Start(options_);
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string taken = std::to_string((*first)->grpc_port());
  options_.config.set_listen("127.0.0.1:" + taken);
  absl::Status status = Server::Start(options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("port " + taken + " is in use"), absl::string_view::npos) << status;
  options_.config.set_listen("127.0.0.1:0");
  options_.config.set_page("127.0.0.1:" + std::to_string((*first)->page_port()));
  status = Server::Start(options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("page"), absl::string_view::npos) << status;
}

TEST_F(ServerTest, Start_RefusesWhatIsNoAddress) {
  options_.config.set_listen("7400");
  EXPECT_EQ(Server::Start(options_).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ServerTest, Start_APortsFileThatCannotBeWrittenIsAnError) {
  options_.config.set_ports_file(testing::TempDir() + "/no/such/folder/ports");
  EXPECT_FALSE(Server::Start(options_).ok());
}

TEST_F(ServerTest, Shutdown_Twice) {
  const auto server = Server::Start(options_);
  ASSERT_TRUE(server.ok()) << server.status();
  (*server)->Shutdown();
  (*server)->Shutdown();
}

}  // namespace
}  // namespace weft::server
