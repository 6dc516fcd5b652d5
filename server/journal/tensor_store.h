#ifndef WEFT_SERVER_JOURNAL_TENSOR_STORE_H_
#define WEFT_SERVER_JOURNAL_TENSOR_STORE_H_

#include <cstddef>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "common/file.h"
#include "common/mutex.h"

namespace weft::server {

// Adapter values as files named by their SHA-256 (Adapter::ContentHash), raw little-endian bytes in layout order; and
// updates as they travelled. Written once with fsync and rename, never changed. Thread-safe.
class TensorStore {
 public:
  // Keeps a stored adapter from being removed until whoever stored it has written down that it is needed.
  class Pin {
   public:
    Pin(Pin&& other) noexcept : store_(std::exchange(other.store_, nullptr)), hash_(std::move(other.hash_)) {}
    Pin& operator=(Pin&&) = delete;
    ~Pin();
    const std::string& hash() const { return hash_; }

   private:
    friend class TensorStore;
    Pin(TensorStore* store, std::string hash) : store_(store), hash_(std::move(hash)) {}
    TensorStore* store_;  // null once moved from
    std::string hash_;
  };

  // `folder` is made when missing.
  static absl::StatusOr<std::unique_ptr<TensorStore>> Open(const std::string& folder);

  // RESOURCE_EXHAUSTED: disk full; then nothing is left behind.
  absl::StatusOr<Pin> Put(std::span<const std::byte> bytes);
  absl::StatusOr<Pin> Put(const Adapter& adapter) { return Put(adapter.bytes()); }
  // Keeps what is stored, or will be, under this hash.
  Pin Hold(const std::string& hash);
  // DATA_LOSS: missing, of another size than the layout's, or its content does not have this hash.
  absl::StatusOr<Adapter> Get(const std::string& hash, std::shared_ptr<const Layout> layout) const;
  // DATA_LOSS: missing, or its content does not have this hash.
  absl::StatusOr<std::string> GetBytes(const std::string& hash) const;
  // No error when missing. Pinned files stay.
  void Remove(const std::string& hash);
  // Removes every file that is neither in `needed` nor pinned, also temporary ones of a killed writer.
  absl::Status RemoveAllBut(const std::set<std::string>& needed);

 private:
  explicit TensorStore(std::string folder) : folder_(std::move(folder)) {}
  std::string PathOf(const std::string& hash) const { return folder_ + "/" + hash; }
  absl::StatusOr<MappedFile> Map(const std::string& hash) const;

  const std::string folder_;
  Mutex mutex_;
  std::map<std::string, int> pins_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_JOURNAL_TENSOR_STORE_H_
