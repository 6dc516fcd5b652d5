#ifndef WEFT_ADAPTERS_LAYOUT_H_
#define WEFT_ADAPTERS_LAYOUT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/adapter.pb.h"

namespace weft {

// Roles that begin so are of tensors that no rule trains: their values start the adapter and stay.
inline constexpr std::string_view kFixedPrefix = "fixed.";

// One tensor of an adapter. Values are fp32 in memory; row-major.
struct TensorSpec {
  std::string name;            // as in proto::TensorSpec
  std::string role;            // "lora_a", "lora_b", "head", ...
  std::vector<int64_t> shape;  // outermost first, each >= 1
  int64_t offset = 0;          // first element in the contiguous buffer, in elements (set by Layout)
  int64_t size = 0;            // number of elements (set by Layout)
};

// The ordered list of tensors of an adapter, without the values. Immutable; shared by pointer. Thread-safe.
class Layout {
 public:
  // INVALID_ARGUMENT: no tensors, empty or repeated name, empty role, a blank or control character in either,
  // dimension < 1, more than 2^40 elements.
  // offset and size of the given specs are ignored and computed.
  static absl::StatusOr<std::shared_ptr<const Layout>> Create(std::vector<TensorSpec> tensors);
  // Also refuses a dtype other than F32.
  static absl::StatusOr<std::shared_ptr<const Layout>> FromProto(const proto::Layout& layout);
  proto::Layout ToProto() const;

  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  // Over all tensors.
  int64_t num_elements() const { return num_elements_; }
  int64_t size_bytes() const { return num_elements_ * 4; }
  // nullptr when there is no such tensor.
  const TensorSpec* Find(std::string_view name) const;
  // Tensor that holds element `index` (0 <= index < num_elements()) of the buffer; for messages.
  const TensorSpec& TensorAt(int64_t index) const;
  // Lower-case hex SHA-256 of the canonical text: one line "name role F32 d0xd1...\n" per tensor, in order.
  const std::string& hash() const { return hash_; }
  bool operator==(const Layout& other) const { return hash_ == other.hash_; }

 private:
  Layout() = default;
  std::vector<TensorSpec> tensors_;
  std::map<std::string, size_t, std::less<>> index_;  // name -> position in tensors_
  int64_t num_elements_ = 0;
  std::string hash_;
};

}  // namespace weft

#endif  // WEFT_ADAPTERS_LAYOUT_H_
