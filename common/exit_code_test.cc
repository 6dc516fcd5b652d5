#include "common/exit_code.h"

#include <gtest/gtest.h>

#include <utility>

namespace weft {
namespace {

TEST(ExitCodeTest, ExitCodeFor_EveryStatusCode) {
  const std::pair<absl::StatusCode, ExitCode> cases[] = {
      {absl::StatusCode::kOk, kExitOk},
      {absl::StatusCode::kCancelled, kExitCancelled},
      {absl::StatusCode::kUnknown, kExitInternal},
      {absl::StatusCode::kInvalidArgument, kExitUsage},
      {absl::StatusCode::kDeadlineExceeded, kExitUnavailable},
      {absl::StatusCode::kNotFound, kExitNotFound},
      {absl::StatusCode::kAlreadyExists, kExitRefused},
      {absl::StatusCode::kPermissionDenied, kExitRefused},
      {absl::StatusCode::kResourceExhausted, kExitResources},
      {absl::StatusCode::kFailedPrecondition, kExitRefused},
      {absl::StatusCode::kAborted, kExitCancelled},
      {absl::StatusCode::kOutOfRange, kExitUsage},
      {absl::StatusCode::kUnimplemented, kExitInternal},
      {absl::StatusCode::kInternal, kExitInternal},
      {absl::StatusCode::kUnavailable, kExitUnavailable},
      {absl::StatusCode::kDataLoss, kExitDataLoss},
      {absl::StatusCode::kUnauthenticated, kExitRefused},
  };
  for (const auto& [code, expected] : cases) EXPECT_EQ(ExitCodeFor(absl::Status(code, "x")), expected) << code;
}

TEST(ExitCodeTest, ErrorLine_NamesProgramCodeAndMessage) {
  EXPECT_EQ(ErrorLine("weft-client", absl::InvalidArgumentError("no base")), "weft-client: INVALID_ARGUMENT: no base");
}

TEST(ExitCodeTest, ErrorLine_IsOneLineWhateverTheMessageHolds) {
  EXPECT_EQ(ErrorLine("weft", absl::InternalError("a\nb\r\nc\rd\n")), "weft: INTERNAL: a b c d");
}

}  // namespace
}  // namespace weft
