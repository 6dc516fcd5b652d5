#include "adapters/layout.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/hash.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 40;
constexpr char kDtype[] = "F32";

template <typename... Parts>
absl::Status Refused(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("layout: ", parts...));
}

// A blank or a line break in a word would let two layouts have one canonical text.
absl::Status CheckWord(const std::string& word, size_t number, const char* what) {
  if (word.empty()) return Refused("tensor ", number, " has an empty ", what, "; give it one");
  const bool plain = std::all_of(word.begin(), word.end(), [](unsigned char c) { return c > ' ' && c != 0x7f; });
  if (plain) return absl::OkStatus();
  return Refused("tensor ", number, " has the ", what, " \"", word, "\", expected one without blanks");
}

// Number of elements, of at most `most`.
absl::StatusOr<int64_t> CountElements(const TensorSpec& spec, int64_t most) {
  int64_t size = 1;
  for (const int64_t dimension : spec.shape) {
    if (dimension < 1) {
      return Refused("tensor ", spec.name, " has shape [", absl::StrJoin(spec.shape, ", "),
                     "], expected dimensions of at least 1");
    }
    if (dimension > most / size) {
      return Refused("with tensor ", spec.name, " of shape [", absl::StrJoin(spec.shape, ", "),
                     "] there are more than the ", kMostElements, " elements an adapter may have");
    }
    size *= dimension;
  }
  if (size > most) {
    return Refused("with tensor ", spec.name, " there are more than the ", kMostElements,
                   " elements an adapter may have");
  }
  return size;
}

std::string CanonicalText(const std::vector<TensorSpec>& tensors) {
  std::string text;
  for (const TensorSpec& spec : tensors) {
    absl::StrAppend(&text, spec.name, " ", spec.role, " ", kDtype, " ", absl::StrJoin(spec.shape, "x"), "\n");
  }
  return text;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Layout>> Layout::Create(std::vector<TensorSpec> tensors) {
  if (tensors.empty()) return Refused("found no tensors, expected at least 1");
  std::shared_ptr<Layout> layout(new Layout());
  for (size_t i = 0; i < tensors.size(); ++i) {
    TensorSpec& spec = tensors[i];
    WEFT_RETURN_IF_ERROR(CheckWord(spec.name, i, "name"));
    WEFT_RETURN_IF_ERROR(CheckWord(spec.role, i, "role"));
    if (!layout->index_.emplace(spec.name, i).second) return Refused("tensor ", spec.name, " is there twice");
    spec.offset = layout->num_elements_;
    WEFT_ASSIGN_OR_RETURN(spec.size, CountElements(spec, kMostElements - spec.offset));
    layout->num_elements_ += spec.size;
  }
  layout->hash_ = ToHex(Sha256Of(CanonicalText(tensors)));
  layout->tensors_ = std::move(tensors);
  return layout;
}

absl::StatusOr<std::shared_ptr<const Layout>> Layout::FromProto(const proto::Layout& layout) {
  std::vector<TensorSpec> tensors;
  for (const proto::TensorSpec& from : layout.tensors()) {
    if (from.dtype() != kDtype) {
      return Refused("tensor ", from.name(), " has dtype \"", from.dtype(), "\", expected ", kDtype);
    }
    tensors.push_back({from.name(), from.role(), {from.shape().begin(), from.shape().end()}});
  }
  return Create(std::move(tensors));
}

proto::Layout Layout::ToProto() const {
  proto::Layout layout;
  for (const TensorSpec& spec : tensors_) {
    proto::TensorSpec* to = layout.add_tensors();
    to->set_name(spec.name);
    to->set_role(spec.role);
    to->set_dtype(kDtype);
    to->mutable_shape()->Assign(spec.shape.begin(), spec.shape.end());
  }
  return layout;
}

const TensorSpec* Layout::Find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const TensorSpec& Layout::TensorAt(int64_t index) const {
  const auto after = std::upper_bound(tensors_.begin(), tensors_.end(), index,
                                      [](int64_t i, const TensorSpec& spec) { return i < spec.offset; });
  return *(after - 1);
}

}  // namespace weft
