#ifndef WEFT_SERVER_TESTING_DISK_FULL_H_
#define WEFT_SERVER_TESTING_DISK_FULL_H_

#include <sys/resource.h>

#include <csignal>

namespace weft::server {

// No file of this process can grow while it lives: what a full disk looks like.
class DiskFull {
 public:
  DiskFull() {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit none = before_;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_FSIZE, &none);
  }
  ~DiskFull() { setrlimit(RLIMIT_FSIZE, &before_); }
  DiskFull(const DiskFull&) = delete;
  DiskFull& operator=(const DiskFull&) = delete;

 private:
  rlimit before_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_TESTING_DISK_FULL_H_
