#ifndef WEFT_SERVER_NET_STATUS_FEED_H_
#define WEFT_SERVER_NET_STATUS_FEED_H_

#include <set>
#include <thread>

#include "absl/time/time.h"
#include "common/mutex.h"
#include "server/coordinator.h"

namespace weft::server {

// Turns the coordinator's blocking WaitForChange into calls to any number of listeners, by one thread, at most once per
// `min_interval`. Thread-safe.
class StatusFeed {
 public:
  // Called on the feed's thread; must return at once and must not call the feed.
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void OnChange() = 0;
    // The coordinator is shutting down; no call follows.
    virtual void OnStop() = 0;
  };

  StatusFeed(Coordinator* coordinator, absl::Duration min_interval);
  // Stops.
  ~StatusFeed();

  // After Stop the listener's OnStop is called at once.
  void Add(Listener* listener);
  // No call is under way or follows once this returns. Ignored when not added.
  void Remove(Listener* listener);
  // Returns promptly when the coordinator was shut down before, else within a second. Idempotent.
  void Stop();

 private:
  void Run();

  Coordinator* const coordinator_;
  const absl::Duration min_interval_;
  Mutex mutex_;
  CondVar changed_;
  std::set<Listener*> listeners_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_STATUS_FEED_H_
