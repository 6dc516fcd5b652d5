#include "server/journal/tensor_store.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace weft::server {

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

absl::StatusOr<TensorStore::Pin> TensorStore::Put(const Adapter& adapter) {
  const std::string hash = adapter.ContentHash();
  {
    MutexLock lock(mutex_);
    ++pins_[hash];
  }
  Pin pin(this, hash);
  std::error_code error;
  if (std::filesystem::exists(PathOf(hash), error)) return pin;
  const std::span<const std::byte> bytes = adapter.bytes();
  WEFT_RETURN_IF_ERROR(
      WriteFileAtomically(PathOf(hash), std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size())));
  return pin;
}

absl::StatusOr<Adapter> TensorStore::Get(const std::string& hash, std::shared_ptr<const Layout> layout) const {
  constexpr const char* kWhatToDo = "; restore the state folder from a copy, or start with an empty one";
  absl::StatusOr<MappedFile> file = MappedFile::Open(PathOf(hash));
  if (!file.ok()) return absl::DataLossError(absl::StrCat(std::string(file.status().message()), kWhatToDo));
  Adapter adapter(std::move(layout));
  const std::span<std::byte> to = adapter.mutable_bytes();
  if (file->bytes().size() != to.size()) {
    return absl::DataLossError(
        absl::StrCat(PathOf(hash), " holds ", file->bytes().size(), " bytes, expected ", to.size(), kWhatToDo));
  }
  std::copy(file->bytes().begin(), file->bytes().end(), to.begin());
  if (const std::string found = adapter.ContentHash(); found != hash) {
    return absl::DataLossError(absl::StrCat(PathOf(hash), " has content of hash ", found, kWhatToDo));
  }
  return adapter;
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
