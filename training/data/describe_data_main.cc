// describe_data FOLDER: opens a data folder as the daemons do, reads every row, prints what is in it as JSON: for tests
// of `weft prepare`.

#include <iostream>
#include <string>

#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "training/data/shard.h"

namespace weft {
namespace {

using Json = nlohmann::json;

absl::StatusOr<Json> Describe(const DataShard& shard) {
  int64_t learnt = 0;
  Json rows_of_labels = Json::object();
  for (int64_t i = 0; i < shard.rows(); ++i) {
    WEFT_RETURN_IF_ERROR(shard.CheckRow(i));
    if (shard.kind() == RowKind::kLearn) {
      for (const uint8_t value : shard.learn(i)) learnt += value;
    } else if (shard.kind() != RowKind::kPairs) {
      const std::string label = std::to_string(shard.label(i));
      rows_of_labels[label] = rows_of_labels.value(label, 0) + 1;
    }
  }
  return Json{{"kind", shard.Describe()},           {"rows", shard.rows()}, {"tokens", shard.tokens()},
              {"longest_row", shard.longest_row()}, {"learnt", learnt},     {"rows_of_labels", rows_of_labels}};
}

absl::StatusOr<Json> DescribeFolder(const std::string& path) {
  WEFT_ASSIGN_OR_RETURN(const DataFolder folder, DataFolder::Open(path));
  Json splits = Json::object();
  for (const auto& [name, shard] : folder.splits()) {
    WEFT_ASSIGN_OR_RETURN(splits[name], Describe(*shard));
  }
  return Json{{"task", folder.task()}, {"labels", folder.labels()}, {"splits", splits}};
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: describe_data FOLDER\n";
    return 2;
  }
  const auto description = weft::DescribeFolder(argv[1]);
  if (!description.ok()) {
    std::cerr << description.status() << "\n";
    return 1;
  }
  std::cout << description->dump() << "\n";
  return 0;
}
