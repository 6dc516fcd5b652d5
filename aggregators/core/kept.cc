#include "aggregators/core/kept.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/hash.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kMagic[] = "weft.kept_updates.1\n";
constexpr size_t kMagicBytes = sizeof(kMagic) - 1;
constexpr size_t kHashBytes = 32;

absl::Status Damaged(const std::string& what) {
  return absl::DataLossError(absl::StrCat("saved updates: ", what, "; start the round again"));
}

std::string FullBinding(const UpdateTerms& terms) {
  return absl::StrCat(terms.binding(), " layout=", terms.layout()->hash());
}

}  // namespace

KeptAggregator::KeptAggregator(const CreateOptions& create, UpdateTerms terms)
    : state_(*create.global), terms_(std::move(terms)), threads_(create.threads) {}

absl::Status KeptAggregator::CheckNew(std::string_view client_id) const {
  if (updates_.find(client_id) == updates_.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("client_id: found a second update of ", std::string(client_id),
                                                 ", expected one update of a client in a round"));
}

absl::Status KeptAggregator::Validate(const ClientUpdate& update) const {
  WEFT_RETURN_IF_ERROR(terms_.Check(update));
  WEFT_RETURN_IF_ERROR(update.tensors.CheckValues());
  return CheckNew(update.client_id);
}

absl::Status KeptAggregator::Accumulate(std::span<const ClientUpdate> updates) {
  std::set<std::string_view> together;
  for (const ClientUpdate& update : updates) {
    WEFT_RETURN_IF_ERROR(Validate(update));
    if (!together.insert(update.client_id).second) {
      return absl::InvalidArgumentError(absl::StrCat("client_id: found two updates of ", std::string(update.client_id),
                                                     ", expected one update of a client in a round"));
    }
  }
  for (const ClientUpdate& update : updates) {
    std::string id(update.client_id);
    KeptUpdate kept{id, terms_.Weight(update), update.rank, update.tensors.Clone()};
    updates_.emplace(std::move(id), std::move(kept));
  }
  return absl::OkStatus();
}

absl::Status KeptAggregator::MergeWith(Aggregator&& other) {
  auto* const part = dynamic_cast<KeptAggregator*>(&other);
  if (part == nullptr) return ForeignPart("another rule", terms_.binding());
  if (part == this) return ForeignPart("the updates themselves", terms_.binding());
  if (FullBinding(part->terms_) != FullBinding(terms_))
    return ForeignPart(FullBinding(part->terms_), FullBinding(terms_));
  for (const auto& [id, kept] : part->updates_) WEFT_RETURN_IF_ERROR(CheckNew(id));
  updates_.merge(part->updates_);
  return absl::OkStatus();
}

absl::StatusOr<Adapter> KeptAggregator::Finish() && {
  if (updates_.empty()) {
    return absl::FailedPreconditionError("nothing was accumulated, expected at least one update before the end");
  }
  std::vector<const KeptUpdate*> updates;
  for (const auto& [id, kept] : updates_) updates.push_back(&kept);
  return Combine(updates);
}

absl::StatusOr<std::string> KeptAggregator::Save() const {
  proto::KeptUpdatesState saved;
  saved.set_binding(FullBinding(terms_));
  for (const auto& [id, kept] : updates_) {
    proto::KeptUpdate& one = *saved.add_updates();
    one.set_client_id(id);
    one.set_weight(kept.weight);
    one.set_rank(kept.rank);
    one.set_encoding(std::string(EncodingName(kept.tensors.encoding())));
    const std::span<const std::byte> bytes = kept.tensors.bytes();
    one.set_values(bytes.data(), bytes.size());
  }
  std::string state = absl::StrCat(kMagic, saved.SerializeAsString());
  state.append(Sha256Of(state));
  return state;
}

absl::Status KeptAggregator::Restore(std::string_view state) {
  if (state.size() < kMagicBytes + kHashBytes || state.substr(0, kMagicBytes) != kMagic) {
    return Damaged("not the state of kept updates");
  }
  const std::string_view content = state.substr(0, state.size() - kHashBytes);
  if (Sha256Of(content) != state.substr(content.size())) return Damaged("the checksum does not fit the bytes");
  proto::KeptUpdatesState saved;
  if (!saved.ParseFromString(std::string(content.substr(kMagicBytes)))) return Damaged("not a message");
  if (saved.binding() != FullBinding(terms_)) {
    return Damaged(absl::StrCat("found those of ", saved.binding(), ", expected ", FullBinding(terms_)));
  }
  std::map<std::string, KeptUpdate, std::less<>> restored;
  for (const proto::KeptUpdate& one : saved.updates()) {
    const auto encoding = ParseEncoding(one.encoding());
    const std::shared_ptr<const Layout> layout = terms_.LayoutOf(one.rank());
    if (!encoding.ok() || layout == nullptr) return Damaged("an update of unknown encoding or rank");
    auto tensors = EncodedUpdate::FromBytes(layout, *encoding, one.values());
    if (!tensors.ok()) return Damaged(std::string(tensors.status().message()));
    restored.emplace(one.client_id(), KeptUpdate{one.client_id(), one.weight(), one.rank(), *std::move(tensors)});
  }
  updates_ = std::move(restored);
  return absl::OkStatus();
}

}  // namespace weft::aggregators
