#include "server/web/page_server.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "common/mutex.h"

namespace weft::server {
namespace {

// A status with one client whose name a test can change.
class FakeSource final : public StatusSource {
 public:
  void Set(const std::string& client_id) {
    MutexLock lock(mutex_);
    client_id_ = client_id;
    ++version_;
    changed_.NotifyAll();
  }

  proto::CoordinatorStatus Status() override {
    MutexLock lock(mutex_);
    proto::CoordinatorStatus status;
    status.add_clients()->set_client_id(client_id_);
    return status;
  }
  uint64_t Version() override {
    MutexLock lock(mutex_);
    return version_;
  }
  uint64_t WaitForChange(uint64_t seen, absl::Duration timeout) override {
    MutexLock lock(mutex_);
    changed_.WaitFor(lock, timeout, [&] { return version_ > seen; });
    return version_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::string client_id_ = "first";
  uint64_t version_ = 1;
};

class PageServerTest : public testing::Test {
 protected:
  void Start(PageServer::Options options = {}) {
    options.host = "127.0.0.1";
    options.source = &source_;
    auto page = PageServer::Start(options);
    ASSERT_TRUE(page.ok()) << page.status();
    page_ = *std::move(page);
  }

  httplib::Client Client() { return httplib::Client("127.0.0.1", page_->port()); }

  FakeSource source_;
  std::unique_ptr<PageServer> page_;
};

TEST_F(PageServerTest, Get_ServesThePageWithASecurityPolicy) {
  Start();
  const auto answer = Client().Get("/");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->get_header_value("Content-Type"), "text/html; charset=utf-8");
  EXPECT_NE(answer->body.find("<title>Weft</title>"), std::string::npos);
  EXPECT_EQ(answer->get_header_value("Content-Security-Policy").substr(0, 18), "default-src 'self'");
  EXPECT_EQ(answer->get_header_value("X-Content-Type-Options"), "nosniff");
}

TEST_F(PageServerTest, Get_ServesEveryFileThePageNames) {
  Start();
  for (const char* path : {"/page.css", "/page.js", "/views.js", "/chart.js", "/dom.js", "/format.js", "/logo.svg"}) {
    const auto answer = Client().Get(path);
    ASSERT_TRUE(answer) << path;
    EXPECT_EQ(answer->status, 200) << path;
    EXPECT_FALSE(answer->body.empty()) << path;
  }
  EXPECT_EQ(Client().Get("/healthz")->body, "ok\n");
  EXPECT_EQ(Client().Get("/etc/passwd")->status, 404);
}

TEST_F(PageServerTest, Get_StatusIsJson) {
  Start();
  const auto answer = Client().Get("/api/status");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->get_header_value("Content-Type"), "application/json");
  EXPECT_EQ(answer->get_header_value("Cache-Control"), "no-store");
  EXPECT_NE(answer->body.find("\"client_id\":\"first\""), std::string::npos) << answer->body;
}

TEST_F(PageServerTest, Post_IsRefused) {
  Start();
  const auto answer = Client().Post("/api/status", "{}", "application/json");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 405);
  EXPECT_EQ(answer->get_header_value("Allow"), "GET, HEAD");
}

TEST_F(PageServerTest, Get_RefusesAForeignHostName) {
  Start();
  EXPECT_EQ(Client().Get("/api/status", {{"Host", "evil.example"}})->status, 421);
  EXPECT_EQ(Client().Get("/api/status", {{"Host", "127.0.0.1.evil.example"}})->status, 421);
  EXPECT_EQ(Client().Get("/api/status", {{"Host", "localhost:7480"}})->status, 200);
  EXPECT_EQ(Client().Get("/api/status", {{"Host", "[::1]:7480"}})->status, 200);
}

TEST_F(PageServerTest, Get_AnswersAnyNameWhenNotBoundToLoopback) {
  PageServer::Options options;
  options.loopback_names_only = false;
  Start(options);
  EXPECT_EQ(Client().Get("/api/status", {{"Host", "coordinator:7480"}})->status, 200);
}

TEST_F(PageServerTest, Events_PushesTheStatusAndEveryChange) {
  Start();
  std::string seen;
  bool changed = false;
  Client().Get("/api/events", [&](const char* data, size_t size) {
    seen.append(data, size);
    if (!changed && seen.find("\n\n") != std::string::npos) {
      EXPECT_EQ(seen.substr(0, 6), "data: ");
      EXPECT_NE(seen.find("\"first\""), std::string::npos);
      changed = true;
      source_.Set("second");
    }
    return seen.find("\"second\"") == std::string::npos;
  });
  EXPECT_NE(seen.find("\"second\""), std::string::npos) << seen;
}

TEST_F(PageServerTest, Events_AQuietStreamCarriesComments) {
  PageServer::Options options;
  options.heartbeat = absl::ZeroDuration();
  Start(options);
  std::string seen;
  Client().Get("/api/events", [&](const char* data, size_t size) {
    seen.append(data, size);
    return seen.find("\n\n:\n\n") == std::string::npos;
  });
  EXPECT_NE(seen.find("\n\n:\n\n"), std::string::npos) << seen;
}

TEST_F(PageServerTest, Events_OneStreamTooManyIsToldToAsk) {
  PageServer::Options options;
  options.max_streams = 1;
  Start(options);
  int second = 0;
  Client().Get("/api/events", [&](const char*, size_t) {
    second = Client().Get("/api/events")->status;
    EXPECT_EQ(Client().Get("/api/status")->status, 200);
    return false;
  });
  EXPECT_EQ(second, 503);
}

TEST_F(PageServerTest, Stop_EndsOpenStreams) {
  Start();
  std::thread stopper;
  Client().Get("/api/events", [&](const char*, size_t) {
    if (!stopper.joinable()) stopper = std::thread([this] { page_->Stop(); });
    return true;
  });
  stopper.join();
  page_->Stop();
  EXPECT_FALSE(Client().Get("/healthz"));
}

TEST_F(PageServerTest, Start_PortInUseIsRefused) {
  Start();
  PageServer::Options options;
  options.host = "127.0.0.1";
  options.port = page_->port();
  options.source = &source_;
  EXPECT_EQ(PageServer::Start(options).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace weft::server
