#ifndef WEFT_SERVER_JOB_ROSTER_H_
#define WEFT_SERVER_JOB_ROSTER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace weft::server {

// The clients that are ready for a job, and who is better not asked for now. Pure state. A client that failed is passed
// over for the rest of that round; one that stalled also for its evaluation, and each further stall without an answer
// in between doubles the rounds it sits out (1, 2, 4, 8), so that a hung client does not cost every round its progress
// timeout.
class Roster {
 public:
  struct Rows {
    uint64_t train = 0;
    uint64_t test = 0;
  };

  void Add(const std::string& client, Rows rows) { clients_[client] = Entry{rows}; }
  void Remove(const std::string& client) { clients_.erase(client); }
  void Answered(const std::string& client);
  void Failed(const std::string& client, int64_t round);
  void Stalled(const std::string& client, int64_t round);

  // Clients with training rows that may be asked in `round`, ascending; everybody with training rows when the ones not
  // passed over are fewer than `at_least`.
  std::vector<std::string> ForTraining(int64_t round, int64_t at_least) const;
  // Clients with test rows that did not stall in `round`, ascending.
  std::vector<std::string> ForEvaluation(int64_t round) const;

  bool empty() const { return clients_.empty(); }
  // Ready clients with training rows.
  int64_t trainers() const;

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
