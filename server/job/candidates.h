#ifndef WEFT_SERVER_JOB_CANDIDATES_H_
#define WEFT_SERVER_JOB_CANDIDATES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/job.pb.h"
#include "server/selection/selection.h"

namespace weft::server {

// The clients that a job can ask, and who is better not asked for now: what JobMachine knows of them. Pure state.
class Candidates {
 public:
  struct Rows {
    uint64_t train = 0;
    uint64_t test = 0;
  };

  virtual ~Candidates() = default;

  virtual void Add(const std::string& client, Rows rows) = 0;
  virtual void Remove(const std::string& client) = 0;
  // What became of one that was asked in `round`.
  virtual void Answered(const std::string& client) = 0;
  virtual void Failed(const std::string& client, int64_t round) = 0;
  virtual void Stalled(const std::string& client, int64_t round) = 0;

  // The clients asked in an attempt, ascending, as server/selection draws them; `attempt.ready` is filled in here.
  // Those better not asked are passed over unless fewer than `at_least` are left.
  virtual std::vector<std::string> Draw(const proto::SelectionConfig& config, SelectionSnapshot attempt,
                                        int64_t at_least) const = 0;
  // Clients that evaluate the state of `round`, ascending.
  virtual std::vector<std::string> ForEvaluation(int64_t round) const = 0;

  virtual bool empty() const = 0;
  // Clients that can be asked to train.
  virtual int64_t trainers() const = 0;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_JOB_CANDIDATES_H_
