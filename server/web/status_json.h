#ifndef WEFT_SERVER_WEB_STATUS_JSON_H_
#define WEFT_SERVER_WEB_STATUS_JSON_H_

#include <string>

#include "proto/status.pb.h"

namespace weft::server {

// One line of JSON with the names of proto/status.proto. Scalars without presence are always there; 64-bit integers are
// strings, as in protobuf's JSON mapping; bytes that are not UTF-8 become U+FFFD.
std::string StatusJson(const proto::CoordinatorStatus& status);

}  // namespace weft::server

#endif  // WEFT_SERVER_WEB_STATUS_JSON_H_
