#include "server/journal/tensor_store.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/status_macros.h"

namespace weft::server {
namespace {

constexpr char kWhatToDo[] = "; restore the state folder from a copy, or start with an empty one";

}  // namespace

TensorStore::Pin::~Pin() {
  if (store_ == nullptr) return;
  MutexLock lock(store_->mutex_);
  const auto it = store_->pins_.find(hash_);
  if (--it->second == 0) store_->pins_.erase(it);
}

absl::StatusOr<std::unique_ptr<TensorStore>> TensorStore::Open(const std::string& folder) {
  WEFT_RETURN_IF_ERROR(MakeDirectories(folder));
  return std::unique_ptr<TensorStore>(new TensorStore(folder));
}

absl::StatusOr<TensorStore::Pin> TensorStore::Put(std::span<const std::byte> bytes) {
  const std::string hash = ToHex(Sha256Of(bytes.data(), bytes.size()));
  Pin pin = Hold(hash);
  std::error_code error;
  if (std::filesystem::exists(PathOf(hash), error)) return pin;
  WEFT_RETURN_IF_ERROR(
      WriteFileAtomically(PathOf(hash), std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size())));
  return pin;
}

TensorStore::Pin TensorStore::Hold(const std::string& hash) {
  MutexLock lock(mutex_);
  ++pins_[hash];
  return Pin(this, hash);
}

absl::StatusOr<MappedFile> TensorStore::Map(const std::string& hash) const {
  absl::StatusOr<MappedFile> file = MappedFile::Open(PathOf(hash));
  if (!file.ok()) return absl::DataLossError(absl::StrCat(file.status().message(), kWhatToDo));
  if (const std::string found = ToHex(Sha256Of(file->bytes().data(), file->bytes().size())); found != hash) {
    return absl::DataLossError(absl::StrCat(PathOf(hash), " has content of hash ", found, kWhatToDo));
  }
  return file;
}

absl::StatusOr<Adapter> TensorStore::Get(const std::string& hash, std::shared_ptr<const Layout> layout) const {
  WEFT_ASSIGN_OR_RETURN(const MappedFile file, Map(hash));
  Adapter adapter(std::move(layout));
  const std::span<std::byte> to = adapter.mutable_bytes();
  if (file.bytes().size() != to.size()) {
    return absl::DataLossError(
        absl::StrCat(PathOf(hash), " holds ", file.bytes().size(), " bytes, expected ", to.size(), kWhatToDo));
  }
  std::copy(file.bytes().begin(), file.bytes().end(), to.begin());
  return adapter;
}

absl::StatusOr<std::string> TensorStore::GetBytes(const std::string& hash) const {
  WEFT_ASSIGN_OR_RETURN(const MappedFile file, Map(hash));
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

void TensorStore::Remove(const std::string& hash) {
  MutexLock lock(mutex_);
  std::error_code ignored;  // a file that stays is removed at the next start
  if (!pins_.contains(hash)) std::filesystem::remove(PathOf(hash), ignored);
}

absl::Status TensorStore::RemoveAllBut(const std::set<std::string>& needed) {
  MutexLock lock(mutex_);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename();
    std::error_code ignored;
    if (!needed.contains(name) && !pins_.contains(name)) std::filesystem::remove(entry.path(), ignored);
  }
  if (error) return absl::InternalError(absl::StrCat("reading folder ", folder_, ": ", error.message()));
  return absl::OkStatus();
}

}  // namespace weft::server
