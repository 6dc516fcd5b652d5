#ifndef WEFT_SIMULATION_ENGINE_DRAW_H_
#define WEFT_SIMULATION_ENGINE_DRAW_H_

// Cohorts as server/selection draws them, from a population too large to be listed.

#include <cstdint>
#include <functional>
#include <vector>

#include "common/random.h"

namespace weft::simulation {

// Whether a client can be asked.
using Accepts = std::function<bool(int64_t client)>;

// All that are accepted, ascending. Looks at everybody.
std::vector<int64_t> AllOf(int64_t size, const Accepts& accepts);

// `count` of those in [0, size) that are accepted, without replacement and each as likely, ascending; all of them when
// there are no more. Looks at about count / (part accepted) clients; at everybody only where few are accepted or most
// are wanted.
std::vector<int64_t> DrawUniform(int64_t count, int64_t size, const Accepts& accepts, Philox& random);

// Each in [0, size) that is accepted with probability `rate`, independently, ascending. Looks at those drawn alone.
std::vector<int64_t> DrawPoisson(double rate, int64_t size, const Accepts& accepts, Philox& random);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_ENGINE_DRAW_H_
