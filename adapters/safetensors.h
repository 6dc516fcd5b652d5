#ifndef WEFT_ADAPTERS_SAFETENSORS_H_
#define WEFT_ADAPTERS_SAFETENSORS_H_

// The safetensors format (huggingface/safetensors README): 8 bytes little-endian header length, JSON header, data.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/file.h"

namespace weft {

struct SafetensorView {
  std::string dtype;  // "F32", "BF16", "F16", "I64", "I32", ... as in the file
  std::vector<int64_t> shape;
  std::span<const std::byte> data;  // into the mapping; may be unaligned for the dtype in files of others
};

// A file mapped, not read. Views live as long as this object. Thread-safe once open.
class SafetensorsFile {
 public:
  // Refuses nothing silently. DATA_LOSS naming what is wrong: truncated, header over 100 MB or longer than the file,
  // invalid JSON, repeated name, unknown dtype, negative or overflowing shape, offsets that overlap, leave gaps, or
  // disagree with shape times dtype.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::map<std::string, SafetensorView>& tensors() const { return tensors_; }
  // NOT_FOUND naming the file and tensor.
  absl::StatusOr<SafetensorView> Find(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  std::string path_;
  std::map<std::string, SafetensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

struct SafetensorToWrite {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

// Written to a temporary and renamed (WriteFileAtomically). The header is padded so that data starts 8-byte aligned,
// and wider dtypes come first, so that every tensor is aligned for its dtype. INVALID_ARGUMENT: repeated or reserved
// name, unknown dtype, size of data unlike shape times dtype.
absl::Status WriteSafetensors(const std::string& path, const std::vector<SafetensorToWrite>& tensors,
                              const std::map<std::string, std::string>& metadata = {});

// The same where the data of each tensor comes when it is its turn: `data(i)` is that of tensors[i], whose own `data`
// is not looked at. It must hold until the next call; an error of it leaves no file.
absl::Status WriteSafetensors(const std::string& path, const std::vector<SafetensorToWrite>& tensors,
                              const std::map<std::string, std::string>& metadata,
                              const std::function<absl::StatusOr<std::span<const std::byte>>(size_t i)>& data);

// Bytes per element; 0 for an unknown dtype.
size_t SafetensorsDtypeSize(std::string_view dtype);

}  // namespace weft

#endif  // WEFT_ADAPTERS_SAFETENSORS_H_
