#ifndef WEFT_SERVER_TESTING_SMALL_JOB_H_
#define WEFT_SERVER_TESTING_SMALL_JOB_H_

#include <string>

#include "proto/daemon.pb.h"
#include "proto/job.pb.h"

namespace weft::server {

// A job over a tiny imagined BERT (hidden 8, one layer): LoRA of rank 2 on query and value, a head of two labels,
// FedAvg over all clients, two of them needed. Defaults are applied.
proto::JobConfig SmallJob(int64_t rounds);

// A coordinator that keeps its state there. Defaults are applied.
proto::CoordinatorConfig SmallCoordinator(const std::string& state_dir);

}  // namespace weft::server

#endif  // WEFT_SERVER_TESTING_SMALL_JOB_H_
