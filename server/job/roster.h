#ifndef WEFT_SERVER_JOB_ROSTER_H_
#define WEFT_SERVER_JOB_ROSTER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/job/candidates.h"

namespace weft::server {

// The clients that are connected and ready for a job. A client that failed is passed
// over for the rest of that round; one that stalled also for its evaluation, and each further stall without an answer
// in between doubles the rounds it sits out (1, 2, 4, 8), so that a hung client does not cost every round its progress
// timeout.
class Roster : public Candidates {
 public:
  void Add(const std::string& client, Rows rows) override { clients_[client] = Entry{rows}; }
  void Remove(const std::string& client) override { clients_.erase(client); }
  void Answered(const std::string& client) override;
  void Failed(const std::string& client, int64_t round) override;
  void Stalled(const std::string& client, int64_t round) override;
  std::vector<std::string> Draw(const proto::SelectionConfig& config, SelectionSnapshot attempt,
                                int64_t at_least) const override;

  // Clients with training rows that may be asked in `round`, ascending; everybody with training rows when the ones not
  // passed over are fewer than `at_least`.
  std::vector<std::string> ForTraining(int64_t round, int64_t at_least) const;
  // Clients with test rows that did not stall in `round`, ascending.
  std::vector<std::string> ForEvaluation(int64_t round) const override;

  bool empty() const override { return clients_.empty(); }
  // Ready clients with training rows.
  int64_t trainers() const override;

 private:
  struct Entry {
    Rows rows;
    int strikes = 0;              // stalls since the last answer
    int64_t stalled_through = 0;  // passed over up to and including this round
    int64_t failed_in = 0;        // passed over in this round
  };
  std::map<std::string, Entry> clients_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_JOB_ROSTER_H_
