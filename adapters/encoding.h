#ifndef WEFT_ADAPTERS_ENCODING_H_
#define WEFT_ADAPTERS_ENCODING_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/encoding_format.h"
#include "adapters/update_checker.h"
#include "proto/job.pb.h"

namespace weft {

// The values of an update as they travel (encoding_format.h says how they lie). Each encoded element IS a defined fp32
// number: what Decode gives, what norm() and max_abs() are of, and what is summed.
//
// Movable; owns its bytes, except that a View refers to an adapter that must outlive it. Thread-safe for reads.
class EncodedUpdate {
 public:
  // The same bits on every machine: values are rounded to nearest, ties to even. int8 and int4: a block's scale is
  // fl32(max|x| / 127) or fl32(max|x| / 7). topk: the TopKCount values of largest magnitude of each tensor; of equal
  // ones, those of lower index. An empty config.values means f32. INVALID_ARGUMENT: an unknown encoding, a density
  // outside (0, 1], NaN, Inf, or a value that does not fit the encoding or is kUpdateLimit or more once encoded.
  static absl::StatusOr<EncodedUpdate> Encode(const Adapter& delta, const proto::EncodingConfig& config);
  // Checks everything UpdateChecker does.
  static absl::StatusOr<EncodedUpdate> FromBytes(std::shared_ptr<const Layout> layout, Encoding encoding,
                                                 std::string bytes);
  // `bytes` are those that the checker has seen. INVALID_ARGUMENT: some are missing.
  static absl::StatusOr<EncodedUpdate> FromChecked(const UpdateChecker& checker, std::string bytes);
  // A plain f32 adapter as an update, without a copy and unchecked.
  static EncodedUpdate View(const Adapter& adapter);
  // The same, kept alive by the update.
  static EncodedUpdate Of(std::shared_ptr<const Adapter> adapter);
  // Owns its bytes also when this is a View.
  EncodedUpdate Clone() const;

  // `density` matters to topk alone.
  static uint64_t SizeBytes(const Layout& layout, Encoding encoding, double density) {
    return EncodedBytes(layout, encoding, density);
  }

  const Layout& layout() const { return *layout_; }
  const std::shared_ptr<const Layout>& layout_ptr() const { return layout_; }
  Encoding encoding() const { return encoding_; }
  std::span<const std::byte> bytes() const;

  // True unless this is plain f32 as it came: a View, made by Of, or the clone of such.
  bool checked() const { return statistics_.has_value(); }
  // What UpdateChecker says of the values; OK at no cost when they were checked.
  absl::Status CheckValues() const;
  // The same, once for all: from now on the values count as checked. Not of a View.
  absl::Status Check();
  // L2 norm and largest magnitude of the decoded values. Computed at each call when the values
  // were not checked.
  double norm() const;
  float max_abs() const;

  Adapter Decode() const;

 private:
  struct Statistics {
    double norm;
    float max_abs;
  };
  EncodedUpdate(std::shared_ptr<const Layout> layout, Encoding encoding)
      : layout_(std::move(layout)), encoding_(encoding) {}

  ValueStatistics UncheckedStatistics() const;

  std::shared_ptr<const Layout> layout_;
  Encoding encoding_;
  std::string bytes_;
  const Adapter* viewed_ = nullptr;
  std::shared_ptr<const Adapter> owned_;  // what is viewed, unless it is somebody else's
  std::optional<Statistics> statistics_;
};

}  // namespace weft

#endif  // WEFT_ADAPTERS_ENCODING_H_
