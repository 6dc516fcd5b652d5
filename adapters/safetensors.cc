#include "adapters/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace weft {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little);

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kLongestHeader = 100'000'000;
constexpr uint64_t kAlignment = 8;
constexpr char kMetadata[] = "__metadata__";

struct Dtype {
  std::string_view name;
  size_t bytes;
};
constexpr Dtype kDtypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},   {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"U16", 2},
                             {"I16", 2},  {"F16", 2}, {"BF16", 2}, {"U32", 4},     {"I32", 4},     {"F32", 4},
                             {"U64", 8},  {"I64", 8}, {"F64", 8},  {"C64", 8}};

// Why a file can't be trusted; the caller puts the path before it.
template <typename... Parts>
absl::Status Damaged(const Parts&... parts) {
  return absl::DataLossError(absl::StrCat(parts...));
}

// Size in bytes of a tensor; nullopt when it overflows, or a dimension is negative.
std::optional<uint64_t> TensorBytes(const std::vector<int64_t>& shape, size_t element_bytes) {
  if (std::any_of(shape.begin(), shape.end(), [](int64_t d) { return d < 0; })) return std::nullopt;
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  uint64_t bytes = element_bytes;
  for (const int64_t dimension : shape) {
    if (static_cast<uint64_t>(dimension) > std::numeric_limits<uint64_t>::max() / bytes) return std::nullopt;
    bytes *= dimension;
  }
  return bytes;
}

// The parsed header. A repeated name would be dropped silently by the parser, so names are watched as they come.
absl::StatusOr<Json> ParseHeader(std::string_view text) {
  if (text.empty() || text.front() != '{') return Damaged("the header does not start with '{'");
  std::vector<std::set<std::string>> names;  // of the objects that are open
  std::optional<std::string> repeated;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) names.emplace_back();
    if (event == Json::parse_event_t::object_end) names.pop_back();
    if (event == Json::parse_event_t::key && !names.back().insert(parsed.get<std::string>()).second) {
      repeated = parsed.get<std::string>();
    }
    return true;
  };
  Json header = Json::parse(text, watch, /*allow_exceptions=*/false);
  if (!header.is_object()) return Damaged("the header is not a JSON object");
  if (repeated.has_value()) return Damaged("the header has \"", *repeated, "\" twice");
  return header;
}

absl::Status ReadMetadata(const Json& from, std::map<std::string, std::string>* metadata) {
  if (!from.is_object()) return Damaged(kMetadata, " is not an object");
  for (const auto& [key, value] : from.items()) {
    if (!value.is_string()) return Damaged(kMetadata, ": \"", key, "\" is not a string");
    (*metadata)[key] = value.get<std::string>();
  }
  return absl::OkStatus();
}

// A list of integers that fit int64; nullopt otherwise.
std::optional<std::vector<int64_t>> ReadIntegers(const Json& entry, const char* key) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array()) return std::nullopt;
  std::vector<int64_t> result;
  for (const Json& value : *found) {
    if (!value.is_number_integer()) return std::nullopt;
    if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    result.push_back(value.get<int64_t>());
  }
  return result;
}

absl::StatusOr<SafetensorView> ReadEntry(const std::string& name, const Json& entry, std::span<const std::byte> data) {
  if (!entry.is_object()) return Damaged("tensor ", name, " is not described by an object");
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) return Damaged("tensor ", name, " has no dtype");
  SafetensorView view{.dtype = dtype->get<std::string>(), .shape = {}, .data = {}};
  const size_t element_bytes = SafetensorsDtypeSize(view.dtype);
  if (element_bytes == 0) return Damaged("tensor ", name, " has the unknown dtype \"", view.dtype, "\"");
  const std::optional<std::vector<int64_t>> shape = ReadIntegers(entry, "shape");
  const std::optional<uint64_t> bytes = shape.has_value() ? TensorBytes(*shape, element_bytes) : std::nullopt;
  if (!bytes.has_value()) return Damaged("tensor ", name, ": shape is not a list of sizes that can be held");
  view.shape = *shape;
  const std::optional<std::vector<int64_t>> offsets = ReadIntegers(entry, "data_offsets");
  if (!offsets.has_value() || offsets->size() != 2 || offsets->at(0) < 0 || offsets->at(1) < offsets->at(0)) {
    return Damaged("tensor ", name, ": data_offsets is not a begin and an end");
  }
  const uint64_t begin = offsets->at(0), end = offsets->at(1);
  if (end > data.size()) {
    return Damaged("truncated: tensor ", name, " ends at byte ", end, " of the data, found ", data.size(), " bytes");
  }
  if (end - begin != *bytes) {
    return Damaged("tensor ", name, " has ", end - begin, " bytes, expected ", *bytes, " of dtype ", view.dtype,
                   " and shape [", absl::StrJoin(view.shape, ", "), "]");
  }
  view.data = data.subspan(begin, end - begin);
  return view;
}

// Tensors lie side by side from the first to the last byte of the data.
absl::Status CheckCover(const std::map<std::string, SafetensorView>& tensors, std::span<const std::byte> data) {
  struct Part {
    uint64_t begin, end;
    const std::string* name;
  };
  std::vector<Part> parts;
  for (const auto& [name, view] : tensors) {
    const uint64_t begin = view.data.data() - data.data();
    parts.push_back({begin, begin + view.data.size(), &name});
  }
  std::sort(parts.begin(), parts.end(),
            [](const Part& a, const Part& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t covered = 0;
  for (const Part& part : parts) {
    if (part.begin < covered) return Damaged("tensor ", *part.name, " overlaps the one before it");
    if (part.begin > covered) {
      return Damaged("bytes ", covered, " to ", part.begin, " before tensor ", *part.name, " belong to no tensor");
    }
    covered = part.end;
  }
  if (covered == data.size()) return absl::OkStatus();
  return Damaged("bytes ", covered, " to ", data.size(), " at the end belong to no tensor");
}

// Header text and data of a file.
absl::StatusOr<std::pair<std::string_view, std::span<const std::byte>>> Split(std::span<const std::byte> bytes) {
  if (bytes.size() < kLengthBytes) {
    return Damaged("truncated: found ", bytes.size(), " bytes, expected at least ", kLengthBytes);
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kLongestHeader) {
    return Damaged("the header has ", length, " bytes, expected at most ", kLongestHeader, "; not a safetensors file");
  }
  const std::span<const std::byte> rest = bytes.subspan(kLengthBytes);
  if (length > rest.size()) return Damaged("truncated: the header has ", length, " bytes, found ", rest.size());
  return std::pair(std::string_view(reinterpret_cast<const char*>(rest.data()), length), rest.subspan(length));
}

absl::Status Read(std::span<const std::byte> bytes, std::map<std::string, SafetensorView>* tensors,
                  std::map<std::string, std::string>* metadata) {
  WEFT_ASSIGN_OR_RETURN(const auto parts, Split(bytes));
  WEFT_ASSIGN_OR_RETURN(const Json header, ParseHeader(parts.first));
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadata) {
      WEFT_RETURN_IF_ERROR(ReadMetadata(entry, metadata));
      continue;
    }
    WEFT_ASSIGN_OR_RETURN((*tensors)[name], ReadEntry(name, entry, parts.second));
  }
  return CheckCover(*tensors, parts.second);
}

// Bytes of each tensor.
absl::StatusOr<std::vector<uint64_t>> SizesToWrite(const std::vector<SafetensorToWrite>& tensors) {
  std::set<std::string_view> names = {kMetadata};
  std::vector<uint64_t> sizes;
  for (const SafetensorToWrite& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor name ", tensor.name, " is there twice or reserved"));
    }
    const size_t element_bytes = SafetensorsDtypeSize(tensor.dtype);
    if (element_bytes == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor.name, " has the unknown dtype \"", tensor.dtype, "\""));
    }
    const std::optional<uint64_t> bytes = TensorBytes(tensor.shape, element_bytes);
    if (!bytes.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " has shape [",
                                                     absl::StrJoin(tensor.shape, ", "), "], expected one that exists"));
    }
    sizes.push_back(*bytes);
  }
  return sizes;
}

absl::Status CheckSize(const SafetensorToWrite& tensor, uint64_t found, uint64_t expected) {
  if (found == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " has ", found,
                                                 " bytes of data, expected those of dtype ", tensor.dtype,
                                                 " and shape [", absl::StrJoin(tensor.shape, ", "), "]"));
}

// The length of the header and the header, for tensors in this order.
std::string Header(const std::vector<SafetensorToWrite>& tensors, const std::vector<uint64_t>& sizes,
                   const std::vector<size_t>& order, const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  uint64_t offset = 0;
  for (const size_t i : order) {
    const uint64_t end = offset + sizes[i];
    header[tensors[i].name] = {
        {"dtype", tensors[i].dtype}, {"shape", tensors[i].shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), kLengthBytes) + text;
}

}  // namespace

size_t SafetensorsDtypeSize(std::string_view dtype) {
  for (const Dtype& known : kDtypes) {
    if (known.name == dtype) return known.bytes;
  }
  return 0;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  SafetensorsFile result;
  WEFT_ASSIGN_OR_RETURN(result.file_, MappedFile::Open(path));
  result.path_ = path;
  const absl::Status status = Read(result.file_.bytes(), &result.tensors_, &result.metadata_);
  if (!status.ok()) return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  return result;
}

absl::StatusOr<SafetensorView> SafetensorsFile::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  return absl::NotFoundError(absl::StrCat(path_, ": no tensor ", name, " among its ", tensors_.size()));
}

absl::Status WriteSafetensors(const std::string& path, const std::vector<SafetensorToWrite>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  return WriteSafetensors(path, tensors, metadata,
                          [&](size_t i) -> absl::StatusOr<std::span<const std::byte>> { return tensors[i].data; });
}

absl::Status WriteSafetensors(const std::string& path, const std::vector<SafetensorToWrite>& tensors,
                              const std::map<std::string, std::string>& metadata,
                              const std::function<absl::StatusOr<std::span<const std::byte>>(size_t i)>& data) {
  const auto under_path = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  };
  const absl::StatusOr<std::vector<uint64_t>> sizes = SizesToWrite(tensors);
  if (!sizes.ok()) return under_path(sizes.status());
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return SafetensorsDtypeSize(tensors[a].dtype) > SafetensorsDtypeSize(tensors[b].dtype);
  });
  const std::string header = Header(tensors, *sizes, order, metadata);
  size_t given = 0;  // pieces: the header, then each tensor
  return WriteFileAtomically(path, [&]() -> absl::StatusOr<std::optional<std::string_view>> {
    if (given == order.size() + 1) return std::optional<std::string_view>();
    if (given++ == 0) return std::optional<std::string_view>(header);
    const size_t i = order[given - 2];
    WEFT_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, data(i));
    if (absl::Status status = CheckSize(tensors[i], bytes.size(), (*sizes)[i]); !status.ok()) return under_path(status);
    return std::optional(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  });
}

}  // namespace weft
