#include "common/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <random>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace weft {
namespace {

absl::Status Error(const char* what, const std::string& path, int error) {
  const absl::Status status = absl::ErrnoToStatus(error, absl::StrCat(what, " ", path));
  // A file size limit is a full disk to us; Abseil calls it OUT_OF_RANGE.
  return error == EFBIG ? absl::ResourceExhaustedError(status.message()) : status;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  bool ok() const { return fd_ >= 0; }
  int get() const { return fd_; }
  // 0 or -1 with errno: late write errors of network file systems show here.
  int Close() { return close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

absl::Status WriteAll(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Error("can't write", path, errno);
    content.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status WriteDurably(Descriptor& file, const NextPiece& next, const std::string& path) {
  while (true) {
    WEFT_ASSIGN_OR_RETURN(const std::optional<std::string_view> piece, next());
    if (!piece.has_value()) break;
    WEFT_RETURN_IF_ERROR(WriteAll(file.get(), *piece, path));
  }
  if (fsync(file.get()) != 0) return Error("can't sync", path, errno);
  if (file.Close() != 0) return Error("can't close", path, errno);
  return absl::OkStatus();
}

absl::Status SyncFolder(const std::string& folder) {
  const Descriptor descriptor(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!descriptor.ok()) return Error("can't open folder", folder, errno);
  if (fsync(descriptor.get()) != 0) return Error("can't sync folder", folder, errno);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.ok()) return Error("can't open", path, errno);
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return Error("can't read", path, errno);
  std::string content;
  size_t size = 0;
  // One byte more than the size shows the end; files of /proc tell no size and grow the buffer.
  content.resize(static_cast<size_t>(info.st_size) + 1);
  while (true) {
    if (size == content.size()) content.resize(2 * size);
    const ssize_t got = read(file.get(), content.data() + size, content.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error("can't read", path, errno);
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  content.resize(size);
  return content;
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view content) {
  return WriteFileAtomically(path, std::span<const std::string_view>(&content, 1));
}

absl::Status WriteFileAtomically(const std::string& path, std::span<const std::string_view> pieces) {
  size_t given = 0;
  return WriteFileAtomically(path, [&]() -> absl::StatusOr<std::optional<std::string_view>> {
    if (given == pieces.size()) return std::optional<std::string_view>();
    return std::optional(pieces[given++]);
  });
}

absl::Status WriteFileAtomically(const std::string& path, const NextPiece& next) {
  std::random_device random;
  const std::string temporary = absl::StrCat(path, ".", absl::Hex(random(), absl::kZeroPad8), ".tmp");
  Descriptor file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!file.ok()) return Error("can't create", temporary, errno);
  absl::Status status = WriteDurably(file, next, path);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) status = Error("can't replace", path, errno);
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  return SyncFolder(FolderOf(path));
}

absl::Status MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return Error("can't make folder", path, error.value());
  return absl::OkStatus();
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.ok()) return Error("can't open", path, errno);
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return Error("can't read", path, errno);
  if (S_ISDIR(info.st_mode)) return Error("can't map", path, EISDIR);
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) return MappedFile();
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) return Error("can't map", path, errno);
  return MappedFile(static_cast<const std::byte*>(data), size);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace weft
