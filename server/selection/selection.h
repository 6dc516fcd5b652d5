#ifndef WEFT_SERVER_SELECTION_SELECTION_H_
#define WEFT_SERVER_SELECTION_SELECTION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/job.pb.h"

namespace weft::server {

// Everything a draw depends on: the same snapshot gives the same cohort on every machine.
struct SelectionSnapshot {
  uint64_t seed = 0;               // the job's
  int64_t round = 1;               // counts from 1
  int64_t attempt = 1;             // counts from 1; another attempt draws another cohort
  int64_t min_updates = 1;         // fewer asked clients than this could not close the round
  std::vector<std::string> ready;  // client ids, ascending, no repeats
};

// The clients asked in one attempt of a round, ascending. `config` has passed its checks.
//   all:     every ready client.
//   uniform: ceil(clients * over_select) without replacement, or every ready client when there are no more.
//   poisson: each client independently with `rate`; a client's draw depends on its own id, never on who else is ready.
//   A
//            draw of fewer than min_updates clients could not close the round, so it is drawn again with fresh
//            randomness (sampling conditioned on a cohort of at least min_updates), up to 1,000 times; then the cohort
//            is empty. With min_updates 0 every draw stands, an empty one too.
std::vector<std::string> SelectCohort(const proto::SelectionConfig& config, const SelectionSnapshot& snapshot);

// The number of updates at which a round over `cohort_size` asked clients closes: `clients` under uniform, else all of
// them.
int64_t CloseAt(const proto::SelectionConfig& config, int64_t cohort_size);

}  // namespace weft::server

#endif  // WEFT_SERVER_SELECTION_SELECTION_H_
