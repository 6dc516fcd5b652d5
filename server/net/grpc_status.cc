#include "server/net/grpc_status.h"

#include <string>

namespace weft::server {
namespace {

constexpr size_t kMaxMessageBytes = 4000;

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string message(status.message());
  if (message.size() > kMaxMessageBytes) message = message.substr(0, kMaxMessageBytes - 3) + "...";
  // Both enums are the canonical codes, number by number.
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message);
}

}  // namespace weft::server
