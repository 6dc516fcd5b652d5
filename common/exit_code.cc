#include "common/exit_code.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace weft {

ExitCode ExitCodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return kExitUsage;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnavailable;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kExitRefused;
    case absl::StatusCode::kResourceExhausted:
      return kExitResources;
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kAborted:
      return kExitCancelled;
    case absl::StatusCode::kDataLoss:
      return kExitDataLoss;
    default:
      return kExitInternal;
  }
}

std::string ErrorLine(const char* program, const absl::Status& status) {
  std::string line = absl::StrCat(program, ": ", absl::StatusCodeToString(status.code()), ": ", status.message());
  absl::StripTrailingAsciiWhitespace(&line);
  // Messages of libraries may have several lines; scripts and logs read one.
  return absl::StrReplaceAll(line, {{"\r\n", " "}, {"\n", " "}, {"\r", " "}});
}

}  // namespace weft
