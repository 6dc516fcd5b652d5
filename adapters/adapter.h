#ifndef WEFT_ADAPTERS_ADAPTER_H_
#define WEFT_ADAPTERS_ADAPTER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "adapters/layout.h"

namespace weft {

// Values of a layout in ONE contiguous, 64-byte aligned fp32 buffer. Movable; copying is explicit (Clone). Not
// thread-safe for writes.
class Adapter {
 public:
  // All zeros.
  explicit Adapter(std::shared_ptr<const Layout> layout);
  Adapter(Adapter&&) = default;
  Adapter& operator=(Adapter&&) = default;
  Adapter Clone() const;

  const Layout& layout() const { return *layout_; }
  const std::shared_ptr<const Layout>& layout_ptr() const { return layout_; }

  std::span<float> values() { return {data_.get(), static_cast<size_t>(layout_->num_elements())}; }
  std::span<const float> values() const { return {data_.get(), static_cast<size_t>(layout_->num_elements())}; }
  std::span<float> tensor(const TensorSpec& spec) { return values().subspan(spec.offset, spec.size); }
  std::span<const float> tensor(const TensorSpec& spec) const { return values().subspan(spec.offset, spec.size); }
  // The buffer as little-endian bytes, in layout order.
  std::span<const std::byte> bytes() const { return std::as_bytes(values()); }
  std::span<std::byte> mutable_bytes() { return std::as_writable_bytes(values()); }
  // Lower-case hex SHA-256 of bytes(): the identity of these values.
  std::string ContentHash() const;

 private:
  struct Free {
    void operator()(float* p) const;
  };
  std::shared_ptr<const Layout> layout_;
  std::unique_ptr<float[], Free> data_;
};

// INVALID_ARGUMENT naming the first tensor and index that holds NaN or Inf.
absl::Status CheckFinite(const Adapter& adapter);
// The same of elements begin <= i < end of the buffer only.
absl::Status CheckFinite(const Adapter& adapter, int64_t begin, int64_t end);

}  // namespace weft

#endif  // WEFT_ADAPTERS_ADAPTER_H_
