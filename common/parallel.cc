#include "common/parallel.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "common/mutex.h"

namespace weft {
namespace {

// More ranges than threads, so that a thread that is held up leaves the rest to the others.
constexpr int kRangesPerThread = 8;
constexpr int kMostThreads = 256;

// One call of ParallelFor. Workers that come late find no range left.
class Call {
 public:
  Call(int64_t count, int64_t ranges, const std::function<void(int64_t, int64_t)>& body)
      : count_(count), ranges_(ranges), left_(ranges), body_(body) {}

  void Work() {
    int64_t done = 0;
    for (int64_t range = next_++; range < ranges_; range = next_++) {
      body_(Border(range), Border(range + 1));
      ++done;
    }
    if (done == 0) return;
    MutexLock lock(mutex_);
    left_ -= done;
    if (left_ == 0) all_done_.NotifyAll();
  }

  void Wait() {
    MutexLock lock(mutex_);
    all_done_.Wait(lock, [this] { return left_ == 0; });
  }

 private:
  int64_t Border(int64_t range) const { return (count_ / ranges_ * range) + std::min(count_ % ranges_, range); }

  const int64_t count_;
  const int64_t ranges_;
  std::atomic<int64_t> next_ = 0;
  Mutex mutex_;
  CondVar all_done_;
  int64_t left_;                                       // guarded by mutex_
  const std::function<void(int64_t, int64_t)>& body_;  // outlives every range
};

// Threads that live as long as the process.
class Pool {
 public:
  ~Pool() {
    {
      const MutexLock lock(mutex_);
      stopping_ = true;
    }
    waiting_.NotifyAll();
    for (std::thread& thread : threads_) thread.join();
  }

  void Help(const std::shared_ptr<Call>& call, int helpers) {
    {
      const MutexLock lock(mutex_);
      while (static_cast<int>(threads_.size()) < helpers) threads_.emplace_back([this] { Run(); });
      for (int i = 0; i < helpers; ++i) queue_.push_back(call);
    }
    waiting_.NotifyAll();
  }

 private:
  void Run() {
    MutexLock lock(mutex_);
    while (true) {
      waiting_.Wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      const std::shared_ptr<Call> call = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      call->Work();
      lock.lock();
    }
  }

  Mutex mutex_;
  CondVar waiting_;
  bool stopping_ = false;                    // guarded by mutex_
  std::deque<std::shared_ptr<Call>> queue_;  // guarded by mutex_
  std::vector<std::thread> threads_;         // guarded by mutex_
};

Pool& SharedPool() {
  static Pool pool;
  return pool;
}

}  // namespace

void ParallelFor(int threads, int64_t count, const std::function<void(int64_t begin, int64_t end)>& body) {
  if (count <= 0) return;
  const int64_t wanted = std::clamp(threads, 1, kMostThreads);
  if (wanted == 1 || count == 1) return body(0, count);
  const auto call = std::make_shared<Call>(count, std::min<int64_t>(count, wanted * kRangesPerThread), body);
  SharedPool().Help(call, static_cast<int>(std::min<int64_t>(wanted, count)) - 1);
  call->Work();
  call->Wait();
}

}  // namespace weft
