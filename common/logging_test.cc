#include "common/logging.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace weft {
namespace {

class LoggingTest : public testing::Test {
 protected:
  ~LoggingTest() override { SetLogLevel("info"); }
};

TEST_F(LoggingTest, Logger_IsOnePerComponent) {
  EXPECT_EQ(Logger("a"), Logger("a"));
  EXPECT_NE(Logger("a"), Logger("b"));
}

TEST_F(LoggingTest, Logger_WritesOneLineToStderr) {
  const auto log = Logger("component");
  testing::internal::CaptureStderr();
  log->info("event=test round={}", 3);
  log->debug("event=unseen");
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("component"), std::string::npos) << text;
  EXPECT_NE(text.find("event=test round=3\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("unseen"), std::string::npos) << text;
}

TEST_F(LoggingTest, SetLogLevel_HoldsForLoggersMadeBeforeAndAfter) {
  const auto before = Logger("before");
  const std::pair<const char*, spdlog::level::level_enum> levels[] = {{"debug", spdlog::level::debug},
                                                                      {"info", spdlog::level::info},
                                                                      {"warn", spdlog::level::warn},
                                                                      {"error", spdlog::level::err}};
  for (const auto& [name, level] : levels) {
    SetLogLevel(name);
    EXPECT_EQ(before->level(), level) << name;
    EXPECT_EQ(Logger(std::string("after ") + name)->level(), level) << name;
  }
}

TEST_F(LoggingTest, Logger_FromManyThreads) {
  std::vector<std::shared_ptr<spdlog::logger>> found(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < found.size(); ++i) threads.emplace_back([&found, i] { found[i] = Logger("shared"); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& logger : found) EXPECT_EQ(logger, found[0]);
}

}  // namespace
}  // namespace weft
