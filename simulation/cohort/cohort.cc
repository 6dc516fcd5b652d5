#include "simulation/cohort/cohort.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/codec.h"
#include "common/parallel.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace weft::simulation {
namespace {

// Groups trained at a time for each thread: enough that threads rarely wait for the last one.
constexpr size_t kGroupsPerThread = 4;

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

Cohort::Cohort(Options options, std::vector<CohortClient> clients)
    : options_(std::move(options)), clients_(std::move(clients)), results_(clients_.size()) {
  double tokens = 0;
  for (size_t i = 0; i < clients_.size(); ++i) {
    if (groups_.empty() || tokens + clients_[i].tokens > options_.tokens_per_pass) {
      groups_.emplace_back();
      tokens = 0;
    }
    tokens += clients_[i].tokens;
    groups_.back().clients.push_back(i);
    group_of_.push_back(groups_.size() - 1);
    place_[clients_[i].index] = i;
  }
}

absl::StatusOr<SentUpdate> Cohort::Take(int64_t index) {
  const size_t place = place_.at(index);
  if (!groups_[group_of_[place]].trained) WEFT_RETURN_IF_ERROR(TrainFrom(group_of_[place]));
  std::optional<absl::StatusOr<SentUpdate>> result = std::exchange(results_[place], std::nullopt);
  if (!result.has_value()) return absl::InternalError(absl::StrCat("client ", index, ": its update was taken before"));
  return *std::move(result);
}

absl::Status Cohort::TrainFrom(size_t first) {
  std::vector<Group*> window;
  for (size_t g = first; g < groups_.size() && window.size() < kGroupsPerThread * options_.threads; ++g) {
    if (!groups_[g].trained) window.push_back(&groups_[g]);
  }
  std::vector<absl::Status> statuses(window.size());
  ParallelFor(options_.threads, static_cast<int64_t>(window.size()), [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) statuses[g] = TrainGroup(*window[g]);
  });
  for (size_t g = 0; g < window.size(); ++g) {
    WEFT_RETURN_IF_ERROR(statuses[g]);
    window[g]->trained = true;
  }
  return absl::OkStatus();
}

absl::Status Cohort::TrainGroup(const Group& group) {
  struct Local {
    size_t place;
    std::unique_ptr<DataShard> rows;
    LocalUpdate update;
  };
  std::deque<Local> locals;  // members refer to them
  std::vector<CohortMember> members;
  proto::Plan plan;
  for (const size_t place : group.clients) {
    const CohortClient& client = clients_[place];
    std::optional<proto::Plan> own = options_.fold->PlanFor(options_.plan_before_rule(client.name), client.max_rank);
    if (!own.has_value()) return absl::InternalError("the round has closed before its clients have trained");
    LocalJob job = options_.job;
    job.max_rank = client.max_rank;
    const bool flips = client.hostile != nullptr && client.hostile->attack() == "label_flip";
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DataShard> rows, options_.rows(client.index, flips));
    WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const KeptState> kept, options_.kept(client.index));
    WEFT_ASSIGN_OR_RETURN(LocalUpdate update, LocalUpdate::Begin(job, *own, options_.broadcast, std::move(kept)));
    locals.push_back({place, std::move(rows), std::move(update)});
    members.push_back(locals.back().update.Member(client.name, locals.back().rows.get()));
    plan = *std::move(own);  // what differs between clients, seed and rank, is in the members
  }
  WEFT_ASSIGN_OR_RETURN(std::vector<absl::StatusOr<TrainResult>> trained,
                        options_.trainer->Train(plan, members, [](int64_t, int64_t) { return true; }));
  for (size_t i = 0; i < locals.size(); ++i) {
    Local& local = locals[i];
    absl::StatusOr<TrainResult>& result = trained[i];
    results_[local.place] =
        !result.ok() ? absl::StatusOr<SentUpdate>(result.status())
                     : Finish(clients_[local.place], std::move(local.update), local.rows->rows(), *std::move(result));
  }
  return absl::OkStatus();
}

absl::StatusOr<SentUpdate> Cohort::Finish(const CohortClient& client, LocalUpdate local, int64_t rows,
                                          TrainResult trained) {
  if (client.hostile != nullptr) {
    Attack(*client.hostile, options_.plan_before_rule(client.name).seed(), local.start(), &trained.adapter);
  }
  WEFT_ASSIGN_OR_RETURN(LocalResult result, std::move(local).End(client.name, static_cast<uint64_t>(rows), trained));
  proto::Update facts = result.update;
  KeptState next = std::move(result.next);
  uint64_t bytes = 0;
  WEFT_ASSIGN_OR_RETURN(EncodedUpdate tensors, Receive(client, std::move(result), &bytes));
  return SentUpdate{.facts = std::move(facts), .tensors = std::move(tensors), .bytes = bytes, .next = std::move(next)};
}

// Nothing can be lost on the way: no chunks, no checksums, no copies. Values are checked as they are at the
// coordinator, and what travels packed is unpacked.
absl::StatusOr<EncodedUpdate> Cohort::Receive(const CohortClient& client, LocalResult result, uint64_t* bytes) {
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
