#include "server/net/grpc_status.h"

#include <gtest/gtest.h>

#include <string>

namespace weft::server {
namespace {

TEST(GrpcStatusTest, ToGrpcStatus_KeepsEveryCodeAndTheMessage) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  for (int code = 1; code <= 16; ++code) {
    const grpc::Status status = ToGrpcStatus(absl::Status(static_cast<absl::StatusCode>(code), "why"));
    EXPECT_EQ(static_cast<int>(status.error_code()), code);
    EXPECT_EQ(status.error_message(), "why");
  }
  EXPECT_EQ(ToGrpcStatus(absl::AbortedError("")).error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ToGrpcStatus(absl::UnauthenticatedError("")).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST(GrpcStatusTest, ToGrpcStatus_CutsALongMessage) {
  const grpc::Status status = ToGrpcStatus(absl::InvalidArgumentError(std::string(100'000, 'x')));
  EXPECT_EQ(status.error_message().size(), 4000u);
  EXPECT_EQ(status.error_message().substr(3997), "...");
  EXPECT_EQ(ToGrpcStatus(absl::InvalidArgumentError(std::string(4000, 'x'))).error_message(), std::string(4000, 'x'));
}

}  // namespace
}  // namespace weft::server
