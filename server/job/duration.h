#ifndef WEFT_SERVER_JOB_DURATION_H_
#define WEFT_SERVER_JOB_DURATION_H_

#include <google/protobuf/duration.pb.h>

#include "absl/time/time.h"

namespace weft::server {

inline absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

}  // namespace weft::server

#endif  // WEFT_SERVER_JOB_DURATION_H_
