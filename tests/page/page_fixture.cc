// Serves the status page from JSON files instead of a coordinator. Prints the port, then reads file names from standard
// input: each becomes the status shown, pushed to open pages. Ends with its input.

#include <google/protobuf/util/json_util.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

#include "common/mutex.h"
#include "server/web/page_server.h"

namespace weft::server {
namespace {

class FileSource final : public StatusSource {
 public:
  // False when the file is not a status.
  bool Load(const std::string& path) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    proto::CoordinatorStatus status;
    if (!google::protobuf::util::JsonStringToMessage(text.str(), &status).ok()) return false;
    MutexLock lock(mutex_);
    status_ = status;
    ++version_;
    changed_.NotifyAll();
    return true;
  }

  proto::CoordinatorStatus Status() override {
    MutexLock lock(mutex_);
    return status_;
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
  proto::CoordinatorStatus status_;
  uint64_t version_ = 0;
};

int Serve() {
  FileSource source;
  PageServer::Options options;
  options.host = "127.0.0.1";
  options.source = &source;
  const auto page = PageServer::Start(options);
  if (!page.ok()) return 1;
  std::printf("%d\n", (*page)->port());
  std::fflush(stdout);
  for (std::string path; std::getline(std::cin, path);) {
    if (!source.Load(path))
      std::fprintf(stderr, "%s: found something else, expected a CoordinatorStatus as JSON\n", path.c_str());
    std::printf("shown\n");
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace weft::server

int main() { return weft::server::Serve(); }
