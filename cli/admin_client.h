#ifndef WEFT_CLI_ADMIN_CLIENT_H_
#define WEFT_CLI_ADMIN_CLIENT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "proto/service.grpc.pb.h"

namespace weft::cli {

// The coordinator's Admin service. Statuses are the coordinator's own; UNAVAILABLE when none answers. Thread-safe.
class AdminClient {
 public:
  struct Exported {
    proto::ExportInfo info;
    Adapter adapter;
  };

  // INVALID_ARGUMENT: malformed address, or one beyond loopback without `insecure`. Does not dial yet.
  static absl::StatusOr<std::unique_ptr<AdminClient>> Create(const std::string& address, bool insecure);

  // The new job's id. `warm_start` may be null.
  absl::StatusOr<std::string> Submit(const proto::JobConfig& config, const Adapter* warm_start);
  // Empty id: all jobs.
  absl::StatusOr<proto::CoordinatorStatus> GetStatus(const std::string& job_id);
  // Calls `show` with the status now and after every change until the job has ended.
  absl::Status Watch(const std::string& job_id, const std::function<void(const proto::CoordinatorStatus&)>& show);
  absl::StatusOr<proto::JobStatus> Stop(const std::string& job_id);
  // DATA_LOSS: what arrived is not the announced adapter.
  absl::StatusOr<Exported> Export(const std::string& job_id, const std::string& which);

 private:
  AdminClient(std::string address, std::unique_ptr<proto::Admin::Stub> stub);
  absl::Status StatusOf(const grpc::Status& status) const;

  const std::string address_;
  const std::unique_ptr<proto::Admin::Stub> stub_;
};

}  // namespace weft::cli

#endif  // WEFT_CLI_ADMIN_CLIENT_H_
