// peft_roundtrip BASE FOLDER OUT: reads an adapter that PEFT has saved for this base and writes it again.

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "adapters/peft_folder.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace weft {
namespace {

absl::Status Run(const std::string& base_folder, const std::string& folder, const std::string& out) {
  WEFT_ASSIGN_OR_RETURN(const std::string config_json, ReadFile(absl::StrCat(base_folder, "/config.json")));
  PeftFolderOptions options;
  WEFT_ASSIGN_OR_RETURN(options.base, DescribeBase(config_json));
  WEFT_ASSIGN_OR_RETURN(const LoadedPeftFolder loaded, LoadPeftFolder(folder, options.base));
  options.adapter = loaded.config;
  options.task = loaded.task;
  options.base_name = base_folder;
  WEFT_ASSIGN_OR_RETURN(options.base_hash, HashBase(base_folder));
  return WritePeftFolder(out, loaded.adapter, options);
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: peft_roundtrip BASE FOLDER OUT\n");
    return 2;
  }
  const absl::Status status = weft::Run(argv[1], argv[2], argv[3]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "peft_roundtrip: %s\n", std::string(status.message()).c_str());
  return 1;
}
