#ifndef WEFT_SERVER_NET_GRPC_STATUS_H_
#define WEFT_SERVER_NET_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace weft::server {

// The same code; the message cut to 4,000 bytes, because a status travels in a trailer and peers refuse trailers over 8
// kB.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_GRPC_STATUS_H_
