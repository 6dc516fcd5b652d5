#include "client/state_file.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "adapters/safetensors.h"
#include "common/hash.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr char kFormat[] = "weft-client-state-1";

using Group = std::pair<const char*, std::shared_ptr<const Adapter> KeptState::*>;
constexpr Group kGroups[] = {
    {"error", &KeptState::error}, {"control", &KeptState::control}, {"local", &KeptState::local}};

std::string Escape(const std::string& name) {
  std::string escaped;
  for (const char c : name) {
    const bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
    if (plain) {
      escaped.push_back(c);
    } else {
      absl::StrAppend(&escaped, "%", absl::Hex(static_cast<uint8_t>(c), absl::kZeroPad2));
    }
  }
  return escaped;
}

// "<group> <name> <role>" a line: names and roles hold no blanks.
std::string TensorLines(const KeptState& state) {
  std::string lines;
  for (const auto& [group, member] : kGroups) {
    const std::shared_ptr<const Adapter>& adapter = state.*member;
    if (adapter == nullptr) continue;
    for (const TensorSpec& tensor : adapter->layout().tensors()) {
      absl::StrAppend(&lines, group, " ", tensor.name, " ", tensor.role, "\n");
    }
  }
  return lines;
}

std::map<std::string, std::string> Metadata(const std::string& job_id, const std::string& client_id,
                                            const KeptState& state) {
  return {{"format", kFormat},
          {"job", job_id},
          {"client", client_id},
          {"round", absl::StrCat(state.round)},
          {"rank", absl::StrCat(state.rank)},
          {"tensors", TensorLines(state)}};
}

// Over everything: safetensors has no checksum of its own.
std::string Checksum(const std::map<std::string, std::string>& metadata, const KeptState& state) {
  Sha256 sha;
  for (const auto& [key, value] : metadata) sha.Update(absl::StrCat(key, "=", value, "\n"));
  for (const auto& [group, member] : kGroups) {
    if ((state.*member) == nullptr) continue;
    sha.Update((state.*member)->layout().hash());
    const std::span<const std::byte> bytes = (state.*member)->bytes();
    sha.Update(bytes.data(), bytes.size());
  }
  return ToHex(sha.Finish());
}

absl::Status Damaged(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

absl::StatusOr<std::shared_ptr<const Adapter>> ReadGroup(const SafetensorsFile& file, const std::string& group,
                                                         const std::string& lines) {
  std::vector<TensorSpec> tensors;
  std::vector<std::span<const std::byte>> values;
  for (const absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(line, ' ');
    if (parts.size() != 3) return absl::DataLossError("malformed list of tensors");
    if (parts[0] != group) continue;
    WEFT_ASSIGN_OR_RETURN(const SafetensorView view, file.Find(absl::StrCat(group, ":", parts[1])));
    if (view.dtype != "F32") return absl::DataLossError(absl::StrCat("tensor of dtype ", view.dtype));
    tensors.push_back({parts[1], parts[2], view.shape});
    values.push_back(view.data);
  }
  if (tensors.empty()) return nullptr;
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, Layout::Create(std::move(tensors)));
  auto adapter = std::make_shared<Adapter>(layout);
  for (size_t i = 0; i < values.size(); ++i) {
    std::memcpy(adapter->tensor(layout->tensors()[i]).data(), values[i].data(), values[i].size());
  }
  return adapter;
}

}  // namespace

std::string StateFilePrefix(const std::string& job_id) { return absl::StrCat(Escape(job_id), "@"); }

std::string StateFileName(const std::string& job_id, const std::string& client_id) {
  return absl::StrCat(StateFilePrefix(job_id), Escape(client_id), ".safetensors");
}

absl::Status WriteStateFile(const std::string& path, const std::string& job_id, const std::string& client_id,
                            const KeptState& state) {
  std::vector<SafetensorToWrite> tensors;
  for (const auto& [group, member] : kGroups) {
    const Adapter* adapter = (state.*member).get();
    if (adapter == nullptr) continue;
    for (const TensorSpec& tensor : adapter->layout().tensors()) {
      tensors.push_back(
          {absl::StrCat(group, ":", tensor.name), "F32", tensor.shape, std::as_bytes(adapter->tensor(tensor))});
    }
  }
  std::map<std::string, std::string> metadata = Metadata(job_id, client_id, state);
  metadata["sha256"] = Checksum(metadata, state);
  return WriteSafetensors(path, tensors, metadata);
}

absl::StatusOr<KeptState> ReadStateFile(const std::string& path, const std::string& job_id,
                                        const std::string& client_id) {
  WEFT_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  std::map<std::string, std::string> metadata = file.metadata();
  if (metadata["format"] != kFormat) return Damaged(path, absl::StrCat("not of format ", kFormat));
  if (metadata["job"] != job_id || metadata["client"] != client_id) {
    return Damaged(path, absl::StrCat("found job ", metadata["job"], " and client ", metadata["client"], ", expected ",
                                      job_id, " and ", client_id));
  }
  KeptState state;
  if (!absl::SimpleAtoi(metadata["round"], &state.round) || !absl::SimpleAtoi(metadata["rank"], &state.rank)) {
    return Damaged(path, "round or rank is no number");
  }
  for (const auto& [group, member] : kGroups) {
    auto adapter = ReadGroup(file, group, metadata["tensors"]);
    if (!adapter.ok()) return Damaged(path, std::string(adapter.status().message()));
    state.*member = *std::move(adapter);
  }
  const std::string expected = std::exchange(metadata["sha256"], "");
  metadata.erase("sha256");
  if (Checksum(metadata, state) != expected) return Damaged(path, "the checksum does not fit the content");
  return state;
}

bool HoldsLocalTensors(const std::string& path) {
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  return file.ok() && std::any_of(file->tensors().begin(), file->tensors().end(),
                                  [](const auto& tensor) { return tensor.first.starts_with("local:"); });
}

}  // namespace weft
