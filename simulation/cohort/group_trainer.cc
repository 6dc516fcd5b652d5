#include "simulation/cohort/group_trainer.h"

#include <deque>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/codec.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace weft::simulation {
namespace {

// What a hostile client makes of what it has trained.
void Attack(const proto::HostileConfig& hostile, uint64_t seed, const Adapter& start, Adapter* trained) {
  const std::string& attack = hostile.attack();
  if (attack == "label_flip") return;  // in its rows already
  Philox random(seed, StreamId("attack"));
  const double factor = attack == "sign_flip" ? -hostile.factor() : hostile.factor();
  for (size_t i = 0; i < trained->values().size(); ++i) {
    float& value = trained->values()[i];
    const float before = start.values()[i];
    if (attack == "nan") {
      value = std::numeric_limits<float>::quiet_NaN();
    } else if (attack == "noise") {
      value = before + static_cast<float>(factor * random.NextNormal());
    } else {
      value = before + static_cast<float>(factor) * (value - before);
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<absl::StatusOr<SentUpdate>>> GroupTrainer::Train(
    std::span<const CohortClient* const> group) const {
  struct Local {
    std::unique_ptr<DataShard> rows;
    LocalUpdate update;
  };
  std::deque<Local> locals;  // members refer to them
  std::vector<CohortMember> members;
  proto::Plan plan;
  for (const CohortClient* each : group) {
    const CohortClient& client = *each;
    std::optional<proto::Plan> own = options_.fold->PlanFor(options_.plan_before_rule(client.name), client.max_rank);
    if (!own.has_value()) return absl::InternalError("the round has closed before its clients have trained");
    LocalJob job = options_.job;
    job.max_rank = client.max_rank;
    const bool flips = client.hostile != nullptr && client.hostile->attack() == "label_flip";
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DataShard> rows, options_.rows(client.index, flips));
    WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const KeptState> kept, options_.kept(client.index));
    WEFT_ASSIGN_OR_RETURN(LocalUpdate update, LocalUpdate::Begin(job, *own, options_.broadcast, std::move(kept)));
    locals.push_back({std::move(rows), std::move(update)});
    members.push_back(locals.back().update.Member(client.name, locals.back().rows.get()));
    plan = *std::move(own);  // what differs between clients, seed and rank, is in the members
  }
  WEFT_ASSIGN_OR_RETURN(std::vector<absl::StatusOr<TrainResult>> trained,
                        options_.trainer->Train(plan, members, [](int64_t, int64_t) { return true; }));
  std::vector<absl::StatusOr<SentUpdate>> results;
  for (size_t i = 0; i < locals.size(); ++i) {
    if (!trained[i].ok()) {
      results.emplace_back(trained[i].status());
      continue;
    }
    results.push_back(Finish(*group[i], std::move(locals[i].update), locals[i].rows->rows(), *std::move(trained[i])));
  }
  return results;
}

absl::StatusOr<SentUpdate> GroupTrainer::Finish(const CohortClient& client, LocalUpdate local, int64_t rows,
                                                TrainResult trained) const {
  if (client.hostile != nullptr) {
    Attack(*client.hostile, options_.plan_before_rule(client.name).seed(), local.start(), &trained.adapter);
  }
  WEFT_ASSIGN_OR_RETURN(LocalResult result, std::move(local).End(client.name, static_cast<uint64_t>(rows), trained));
  proto::Update facts = result.update;
  KeptState next = std::move(result.next);
  uint64_t bytes = 0;
  WEFT_ASSIGN_OR_RETURN(EncodedUpdate tensors, Receive(client, std::move(result), &bytes));
  absl::Status valid = options_.fold->Validate({client.name, facts.examples(), tensors, facts.rank()});
  return SentUpdate{.facts = std::move(facts),
                    .tensors = std::move(tensors),
                    .bytes = bytes,
                    .valid = std::move(valid),
                    .next = std::move(next)};
}

// Nothing can be lost on the way: no chunks, no checksums, no copies. Values are checked as they are at the
// coordinator, and what travels packed is unpacked.
absl::StatusOr<EncodedUpdate> GroupTrainer::Receive(const CohortClient& client, LocalResult result,
                                                    uint64_t* bytes) const {
  WEFT_ASSIGN_OR_RETURN(const UpdateDecoder::Options expected,
                        options_.fold->Expect(result.update.rank(), client.max_rank));
  if (result.components.empty()) {
    if (!(result.tensors.layout() == *expected.sent)) {
      return absl::InternalError(absl::StrCat("client ", client.name, " sends another layout than the plan asks for"));
    }
    *bytes = result.tensors.bytes().size();
    WEFT_RETURN_IF_ERROR(result.tensors.Check());
    return std::move(result.tensors);
  }
  UpdateEncoder encoder(result.tensors, result.components, uint64_t{1} << 20);
  WEFT_ASSIGN_OR_RETURN(UpdateDecoder decoder, UpdateDecoder::Create(encoder.Header(), expected));
  *bytes = encoder.total_bytes();
  proto::Chunk chunk;
  while (encoder.Next(&chunk)) WEFT_RETURN_IF_ERROR(decoder.Add(chunk));
  return std::move(decoder).Finish();
}

}  // namespace weft::simulation
