#include "server/net/work_queue.h"

#include <utility>

namespace weft::server {

WorkQueue::WorkQueue(int threads) {
  threads_.reserve(threads);
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkQueue::~WorkQueue() { Stop(); }

void WorkQueue::Post(std::function<void()> work) {
  MutexLock lock(mutex_);
  if (stopping_) return;
  pending_.push_back(std::move(work));
  changed_.NotifyOne();
}

void WorkQueue::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void WorkQueue::Run() {
  MutexLock lock(mutex_);
  while (true) {
    changed_.Wait(lock, [this] { return stopping_ || !pending_.empty(); });
    if (pending_.empty()) return;
    std::function<void()> work = std::move(pending_.front());
    pending_.pop_front();
    lock.unlock();
    work();
    work = nullptr;  // what it captured is released without the lock
    lock.lock();
  }
}

}  // namespace weft::server
