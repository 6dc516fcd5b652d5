#ifndef WEFT_COMMON_FILE_H_
#define WEFT_COMMON_FILE_H_

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft {

// Whole file. NOT_FOUND when missing; other errors carry the path and errno text.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Durable replacement: writes a temporary beside `path`, fsyncs it, renames it over `path`, fsyncs the folder. Readers
// see the old or the new content, never a part. RESOURCE_EXHAUSTED when the disk is full; nothing is left behind then.
absl::Status WriteFileAtomically(const std::string& path, std::string_view content);
// The same from pieces, without joining them in memory.
absl::Status WriteFileAtomically(const std::string& path, std::span<const std::string_view> pieces);
// The same from pieces as they come: `next` is called until it gives nothing, and each piece must hold until then. An
// error of it leaves no file.
using NextPiece = std::function<absl::StatusOr<std::optional<std::string_view>>()>;
absl::Status WriteFileAtomically(const std::string& path, const NextPiece& next);

// mkdir -p.
absl::Status MakeDirectories(const std::string& path);

// Read-only memory map of a whole file; unmapped on destruction. Movable. An empty file gives an empty span.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace weft

#endif  // WEFT_COMMON_FILE_H_
