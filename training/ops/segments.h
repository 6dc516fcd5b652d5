#ifndef WEFT_TRAINING_OPS_SEGMENTS_H_
#define WEFT_TRAINING_OPS_SEGMENTS_H_

#include <cstdint>
#include <vector>

namespace weft {

// Whose rows of a matrix are whose in a pass of several members of a cohort: member k owns rows [offsets[k], offsets[k
// + 1]). Rows from offsets.back() on are nobody's: fill that keeps sizes round, whose values mean nothing but are
// finite.
struct Segments {
  std::vector<int64_t> offsets = {0};  // [members + 1], ascending from 0
  int64_t members() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t begin(int64_t member) const { return offsets[member]; }
  int64_t end(int64_t member) const { return offsets[member + 1]; }
};

}  // namespace weft

#endif  // WEFT_TRAINING_OPS_SEGMENTS_H_
