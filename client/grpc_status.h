#ifndef WEFT_CLIENT_GRPC_STATUS_H_
#define WEFT_CLIENT_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace weft {

// The same code and message: gRPC's codes and Abseil's are both the canonical ones, number by number.
inline absl::Status FromGrpcStatus(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace weft

#endif  // WEFT_CLIENT_GRPC_STATUS_H_
