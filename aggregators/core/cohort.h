#ifndef WEFT_AGGREGATORS_CORE_COHORT_H_
#define WEFT_AGGREGATORS_CORE_COHORT_H_

// What rules on single updates share: the kept updates of a cohort as values, and their means. Everything is summed in
// fp64 in the order of the updates, which is that of client ids, so the bits depend on neither arrival nor threads.

#include <cstdint>
#include <span>
#include <vector>

#include "adapters/adapter.h"
#include "aggregators/core/kept.h"
#include "proto/job.pb.h"

namespace weft::aggregators {

// The deltas, in order.
std::vector<Adapter> DecodeAll(std::span<const KeptUpdate* const> updates, int threads);
// p_k = weight_k / sum of weights, in order.
std::vector<double> Shares(std::span<const KeptUpdate* const> updates);
// sum_k shares[k] * deltas[k], rounded once. At least one delta; all of one layout.
Adapter WeightedMean(std::span<const Adapter> deltas, std::span<const double> shares, int threads);
// Adds to `next` the mean delta of each tensor that is no LoRA factor. The deltas may be cut to different ranks.
void AddMeanOfOthers(std::span<const Adapter> deltas, std::span<const double> shares, Adapter* next);

// Bytes that `updates` kept updates of the job take at most, and the same decoded.
int64_t KeptBytes(const proto::JobConfig& job, const Layout& state, int64_t updates);
int64_t DecodedBytes(const Layout& state, int64_t updates);

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_COHORT_H_
