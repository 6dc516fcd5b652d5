#ifndef WEFT_SERVER_NET_WORK_QUEUE_H_
#define WEFT_SERVER_NET_WORK_QUEUE_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "common/mutex.h"

namespace weft::server {

// A fixed number of threads that take posted functions in the order of posting. Calls into the coordinator run here,
// since they may wait for its lock, the disk or upload memory, and gRPC's own few threads must never wait. Thread-safe.
class WorkQueue {
 public:
  // threads >= 1.
  explicit WorkQueue(int threads);
  // Stops.
  ~WorkQueue();

  // After Stop the work is dropped.
  void Post(std::function<void()> work);
  // Runs everything posted so far, then ends the threads. Not from a posted function. Idempotent.
  void Stop();

 private:
  void Run();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> pending_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_WORK_QUEUE_H_
