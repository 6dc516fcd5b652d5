#include "server/web/status_json.h"

#include <google/protobuf/util/json_util.h>

namespace weft::server {

std::string StatusJson(const proto::CoordinatorStatus& status) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto result = google::protobuf::util::MessageToJsonString(status, &json, options);
  return result.ok() ? json : "{}";
}

}  // namespace weft::server
