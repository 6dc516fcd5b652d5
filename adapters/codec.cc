#include "adapters/codec.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/components.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr char kPlain[] = "f32";
constexpr uint64_t kElementBytes = sizeof(float);

template <typename... Parts>
absl::Status Refused(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckEncoding(const std::string& found, const std::string& expected) {
  if (found == expected) return absl::OkStatus();
  return Refused("found encoding \"", found, "\", expected \"", expected,
                 "\"; run the same version of Weft on both ends");
}

absl::Status CheckLayoutHash(const std::string& found, const std::string& expected) {
  if (found == expected) return absl::OkStatus();
  return Refused("found layout ", found, ", expected ", expected,
                 "; run the same job and the same version of Weft on both ends");
}

absl::Status CheckTotal(uint64_t found, uint64_t expected) {
  if (found == expected) return absl::OkStatus();
  return Refused("found ", found, " bytes, expected the layout's ", expected);
}

// The tensors of `roles` (empty: all) in `layout`'s order.
std::vector<TensorSpec> TensorsOf(const Layout& layout, const std::set<std::string>& roles) {
  std::vector<TensorSpec> tensors;
  for (const TensorSpec& tensor : layout.tensors()) {
    if (roles.empty() || roles.count(tensor.role) > 0) tensors.push_back(tensor);
  }
  return tensors;
}

bool IsBaseStep(const std::string& role) { return role == "base_a" || role == "base_b"; }

bool IsBroadcastExtra(const std::string& role) { return role.starts_with("control.") || IsBaseStep(role); }

// What an announced layout may hold beside the job's own tensors.
absl::Status CheckAnnounced(const Layout& layout, const StateDecoder::Options& options) {
  const std::vector<TensorSpec>& job = options.job_layout->tensors();
  size_t i = 0;
  for (; !options.base_step && i < job.size(); ++i) {
    if (i < layout.tensors().size() && layout.tensors()[i].name == job[i].name &&
        layout.tensors()[i].role == job[i].role && layout.tensors()[i].shape == job[i].shape) {
      continue;
    }
    return Refused("found a state without tensor \"", job[i].name, "\" in its place, expected the job's tensors first");
  }
  for (; i < layout.tensors().size(); ++i) {
    const TensorSpec& extra = layout.tensors()[i];
    if (options.base_step ? IsBaseStep(extra.role) : IsBroadcastExtra(extra.role)) continue;
    return Refused("found tensor \"", extra.name, "\" of role ", extra.role, ", expected ",
                   options.base_step ? "" : "control.*, ", "base_a or base_b",
                   "; run the same version of Weft on both ends");
  }
  return absl::OkStatus();
}

// Tensors that do not follow must be held.
absl::Status CheckHeld(const Layout& layout, const Layout& body, const Adapter* held) {
  for (const TensorSpec& tensor : layout.tensors()) {
    if (body.Find(tensor.name) != nullptr) continue;
    const TensorSpec* own = held == nullptr ? nullptr : held->layout().Find(tensor.name);
    if (own != nullptr && own->role == tensor.role && own->shape == tensor.shape) continue;
    return Refused("found no values of tensor \"", tensor.name, "\", expected them since they are not held here");
  }
  return absl::OkStatus();
}

std::vector<std::span<const std::byte>> Pieces(const Adapter& state, const StateEncoder::Options& options) {
  std::vector<std::span<const std::byte>> pieces;
  for (const TensorSpec& tensor :
       TensorsOf(*options.layout, std::set<std::string>(options.roles.begin(), options.roles.end()))) {
    const TensorSpec* own = state.layout().Find(tensor.name);
    if (own == nullptr || own->shape != tensor.shape) std::abort();  // an own invariant
    pieces.push_back(std::as_bytes(state.tensor(*own)));
  }
  return pieces;
}

}  // namespace

AdapterEncoder::AdapterEncoder(const Adapter& adapter, uint64_t chunk_bytes)
    : adapter_(adapter), writer_({adapter.bytes()}, chunk_bytes) {}

proto::TensorHeader AdapterEncoder::Header() const {
  proto::TensorHeader header;
  header.set_layout_hash(adapter_.layout().hash());
  header.set_encoding(kPlain);
  header.set_total_bytes(writer_.total_bytes());
  header.set_sha256(writer_.Sha256OfAll());
  return header;
}

AdapterDecoder::AdapterDecoder(ChunkReader reader, std::shared_ptr<const Layout> layout)
    : reader_(std::move(reader)), adapter_(std::move(layout)) {}

absl::StatusOr<AdapterDecoder> AdapterDecoder::Create(const proto::TensorHeader& header,
                                                      std::shared_ptr<const Layout> layout) {
  WEFT_RETURN_IF_ERROR(CheckLayoutHash(header.layout_hash(), layout->hash()));
  WEFT_RETURN_IF_ERROR(CheckEncoding(header.encoding(), kPlain));
  WEFT_RETURN_IF_ERROR(CheckTotal(header.total_bytes(), static_cast<uint64_t>(layout->size_bytes())));
  WEFT_ASSIGN_OR_RETURN(ChunkReader reader, ChunkReader::Create(header));
  return AdapterDecoder(std::move(reader), std::move(layout));
}

absl::Status AdapterDecoder::Add(const proto::Chunk& chunk) {
  const uint64_t at = reader_.received_bytes();
  WEFT_RETURN_IF_ERROR(reader_.Check(chunk));
  std::memcpy(adapter_.mutable_bytes().data() + at, chunk.data().data(), chunk.data().size());
  // The element a chunk ended in is checked once it is whole.
  return CheckFinite(adapter_, static_cast<int64_t>(at / kElementBytes),
                     static_cast<int64_t>(reader_.received_bytes() / kElementBytes));
}

absl::StatusOr<Adapter> AdapterDecoder::Finish() && {
  WEFT_RETURN_IF_ERROR(reader_.Finish());
  return std::move(adapter_);
}

StateEncoder::StateEncoder(const Adapter& state, Options options)
    : options_(std::move(options)), writer_(Pieces(state, options_), options_.chunk_bytes) {}

proto::TensorHeader StateEncoder::Header() const {
  proto::TensorHeader header;
  header.set_layout_hash(options_.layout->hash());
  header.set_encoding(kPlain);
  header.set_total_bytes(writer_.total_bytes());
  header.set_sha256(writer_.Sha256OfAll());
  if (!(*options_.layout == *options_.job_layout)) *header.mutable_layout() = options_.layout->ToProto();
  for (const std::string& role : options_.roles) header.add_roles(role);
  return header;
}

absl::StatusOr<StateDecoder> StateDecoder::Create(const proto::TensorHeader& header, const Options& options) {
  std::shared_ptr<const Layout> layout = options.job_layout;
  if (header.has_layout()) {
    WEFT_ASSIGN_OR_RETURN(layout, Layout::FromProto(header.layout()));
    WEFT_RETURN_IF_ERROR(CheckAnnounced(*layout, options));
  } else if (options.base_step) {
    return Refused("found a state of the job's layout alone, expected a step of the base (roles base_a, base_b)");
  }
  WEFT_RETURN_IF_ERROR(CheckLayoutHash(header.layout_hash(), layout->hash()));
  const std::set<std::string> roles(header.roles().begin(), header.roles().end());
  for (const std::string& role : roles) {
    if (!TensorsOf(*layout, {role}).empty()) continue;
    return Refused("found role \"", role, "\", which no tensor of the state has");
  }
  std::shared_ptr<const Layout> body = layout;
  if (!roles.empty()) {
    WEFT_ASSIGN_OR_RETURN(body, Layout::Create(TensorsOf(*layout, roles)));
  }
  WEFT_RETURN_IF_ERROR(CheckHeld(*layout, *body, options.held));
  proto::TensorHeader rest = header;
  rest.set_layout_hash(body->hash());
  WEFT_ASSIGN_OR_RETURN(AdapterDecoder decoder, AdapterDecoder::Create(rest, std::move(body)));
  return StateDecoder(std::move(decoder), std::move(layout), options.held);
}

absl::StatusOr<Adapter> StateDecoder::Finish() && {
  WEFT_ASSIGN_OR_RETURN(Adapter body, std::move(body_).Finish());
  if (body.layout() == *layout_) return body;
  Adapter state(layout_);
  for (const TensorSpec& tensor : layout_->tensors()) {
    const TensorSpec* received = body.layout().Find(tensor.name);
    const std::span<const float> values =
        received != nullptr ? std::as_const(body).tensor(*received) : held_->tensor(*held_->layout().Find(tensor.name));
    std::copy(values.begin(), values.end(), state.tensor(tensor).begin());
  }
  return state;
}

UpdateEncoder::UpdateEncoder(const EncodedUpdate& update, std::string components, uint64_t chunk_bytes)
    : update_(update), components_(std::move(components)), writer_({update.bytes()}, chunk_bytes) {}

proto::TensorHeader UpdateEncoder::Header() const {
  proto::TensorHeader header;
  header.set_layout_hash(update_.layout().hash());
  header.set_encoding(EncodingName(update_.encoding()));
  header.set_total_bytes(writer_.total_bytes());
  header.set_sha256(writer_.Sha256OfAll());
  header.set_components(components_);
  return header;
}

uint64_t UpdateDecoder::MemoryBytes(const Options& options) {
  const absl::StatusOr<Encoding> encoding =
      options.encoding.values().empty() ? Encoding::kF32 : ParseEncoding(options.encoding.values());
  // Packed, it is there as it came, decoded, unpacked, and as it is handed out.
  const auto dense = static_cast<uint64_t>(options.sent->size_bytes());
  const uint64_t received = encoding.ok() ? EncodedBytes(*options.sent, *encoding, options.encoding.density()) : dense;
  return options.keep_components == 0 ? received : received + 3 * dense;
}

absl::StatusOr<UpdateDecoder> UpdateDecoder::Create(const proto::TensorHeader& header, const Options& options) {
  WEFT_RETURN_IF_ERROR(
      CheckEncoding(header.encoding(), options.encoding.values().empty() ? kPlain : options.encoding.values()));
  WEFT_ASSIGN_OR_RETURN(const Encoding encoding, ParseEncoding(header.encoding()));
  std::shared_ptr<const Layout> layout = options.sent;
  const std::string& components = header.components();
  if (components.empty()) {
    const int64_t all = options.keep_components == 0 ? 0 : NumComponents(*options.sent);
    if (all > options.keep_components) {
      return Refused("components: found all ", all, ", expected at most ", options.keep_components);
    }
  } else {
    if (options.keep_components == 0) return Refused("components: found some of them, expected all");
    if (const int64_t found = CountComponents(components); found > options.keep_components) {
      return Refused("components: found ", found, ", expected at most ", options.keep_components);
    }
    WEFT_ASSIGN_OR_RETURN(layout, PackedLayout(*options.sent, components));
  }
  WEFT_RETURN_IF_ERROR(CheckLayoutHash(header.layout_hash(), layout->hash()));
  WEFT_RETURN_IF_ERROR(CheckTotal(header.total_bytes(), EncodedBytes(*layout, encoding, options.encoding.density())));
  WEFT_ASSIGN_OR_RETURN(ChunkReader reader, ChunkReader::Create(header));
  return UpdateDecoder(std::move(reader), UpdateChecker(std::move(layout), encoding), options.sent, components);
}

UpdateDecoder::UpdateDecoder(ChunkReader reader, UpdateChecker checker, std::shared_ptr<const Layout> sent,
                             std::string components)
    : reader_(std::move(reader)),
      checker_(std::move(checker)),
      sent_(std::move(sent)),
      components_(std::move(components)) {
  bytes_.reserve(reader_.total_bytes());
}

absl::Status UpdateDecoder::Add(const proto::Chunk& chunk) {
  WEFT_RETURN_IF_ERROR(reader_.Check(chunk));
  WEFT_RETURN_IF_ERROR(checker_.Add(std::as_bytes(std::span(chunk.data()))));
  bytes_.append(chunk.data());
  return absl::OkStatus();
}

absl::StatusOr<EncodedUpdate> UpdateDecoder::Finish() && {
  WEFT_RETURN_IF_ERROR(reader_.Finish());
  WEFT_ASSIGN_OR_RETURN(EncodedUpdate update, EncodedUpdate::FromChecked(checker_, std::move(bytes_)));
  if (components_.empty()) return update;
  return EncodedUpdate::Encode(Unpack(update.Decode(), components_, sent_), proto::EncodingConfig());
}

}  // namespace weft
