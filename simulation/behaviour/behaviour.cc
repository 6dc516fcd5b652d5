#include "simulation/behaviour/behaviour.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "simulation/behaviour/parts.h"

namespace weft::simulation {
namespace {

constexpr absl::Duration kDay = absl::Hours(24);

absl::Duration Micros(double seconds) {
  constexpr double kLongest = 1e11;  // seconds; 3,000 years
  return absl::Microseconds(std::llround(std::min(seconds, kLongest) * 1e6));
}

absl::Duration DurationOf(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

// Of a sequence that this client has for this purpose, in this round if one is given.
Philox RandomOf(uint64_t seed, int64_t client, const char* purpose) {
  return {MixSeed(seed, static_cast<uint64_t>(client)), StreamId(purpose)};
}
Philox RandomOf(uint64_t seed, const Turn& turn, const char* purpose) {
  const uint64_t round = MixSeed(MixSeed(seed, static_cast<uint64_t>(turn.round)), static_cast<uint64_t>(turn.attempt));
  return RandomOf(round, turn.client, purpose);
}

double LogNormal(double sigma, Philox random) { return sigma > 0 ? std::exp(sigma * random.NextNormal()) : 1; }

template <typename Groups>
std::vector<double> PartsOf(const Groups& groups) {
  std::vector<double> parts;
  for (const auto& group : groups) parts.push_back(group.part());
  return parts;
}

absl::Status CheckSum(const std::string& key, double sum) {
  if (sum <= 1 + 1e-9) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("behaviour.", key, ": come to ", sum, " together, expected at most 1; lower them"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Behaviour>> Behaviour::Create(Options options) {
  std::unique_ptr<Behaviour> behaviour(new Behaviour(std::move(options)));
  WEFT_RETURN_IF_ERROR(behaviour->Check());
  const proto::BehaviourConfig& config = behaviour->options_.config;
  if (!config.speed().trace().empty()) {
    WEFT_ASSIGN_OR_RETURN(behaviour->speeds_, SpeedTrace::Read(config.speed().trace(), behaviour->options_.find));
  }
  if (config.availability().kind() == "trace") {
    WEFT_ASSIGN_OR_RETURN(behaviour->stays_,
                          AvailabilityTrace::Read(config.availability().trace(), behaviour->options_.find));
  }
  if (!config.cohorts().empty()) {
    WEFT_ASSIGN_OR_RETURN(behaviour->cohorts_, CohortTrace::Read(config.cohorts()));
  }
  return behaviour;
}

absl::Status Behaviour::Check() const {
  const proto::BehaviourConfig& config = options_.config;
  double hostile = 0, ranks = 0;
  for (const proto::HostileConfig& group : config.hostile()) hostile += group.part();
  for (const proto::RankConfig& group : config.ranks()) ranks += group.part();
  WEFT_RETURN_IF_ERROR(CheckSum("hostile: the parts", hostile));
  WEFT_RETURN_IF_ERROR(CheckSum("ranks: the parts", ranks));
  const proto::DropoutConfig& dropout = config.dropout();
  WEFT_RETURN_IF_ERROR(CheckSum("dropout: the probabilities", dropout.before_training() + dropout.in_training() +
                                                                  dropout.in_upload() + dropout.hang()));
  if (config.availability().kind() == "trace" && config.availability().trace().empty()) {
    return absl::InvalidArgumentError("behaviour.availability.trace: missing; kind trace needs a file");
  }
  return absl::OkStatus();
}

double Behaviour::RowsPerSecond(const Turn& turn) const {
  const proto::SpeedConfig& config = options_.config.speed();
  double speed = speeds_.has_value() ? speeds_->RowsPerSecond(turn.client)
                                     : config.rows_per_second() *
                                           LogNormal(config.sigma(), RandomOf(options_.seed, turn.client, "speed"));
  if (config.stragglers() > 0 && RandomOf(options_.seed, turn, "straggler").NextDouble() < config.stragglers()) {
    speed /= config.straggler_factor();
  }
  return speed;
}

double Behaviour::LinkFactor(int64_t client) const {
  return LogNormal(options_.config.link().sigma(), RandomOf(options_.seed, client, "link"));
}

Timeline Behaviour::TimelineOf(const Turn& turn, const Work& work) const {
  const proto::LinkConfig& link = options_.config.link();
  const double factor = LinkFactor(turn.client);
  const auto transfer = [&](uint64_t bytes, double median) {
    const absl::Duration latency = DurationOf(link.latency());
    return median > 0 ? latency + Micros(static_cast<double>(bytes) / (median * factor)) : latency;
  };
  const double speed = RowsPerSecond(turn);
  Timeline timeline;
  timeline.downloaded = transfer(work.bytes_down, link.down_bytes_per_second());
  timeline.trained = timeline.downloaded;
  if (speed > 0) timeline.trained += Micros(static_cast<double>(work.rows) / speed);
  timeline.uploaded = timeline.trained + transfer(work.bytes_up, link.up_bytes_per_second());
  DrawFault(turn, &timeline);
  if (!always_available()) Leave(turn, &timeline);
  return timeline;
}

void Behaviour::DrawFault(const Turn& turn, Timeline* timeline) const {
  const proto::DropoutConfig& dropout = options_.config.dropout();
  Philox random = RandomOf(options_.seed, turn, "dropout");
  double draw = random.NextDouble();
  const double where = random.NextDouble();
  const auto within = [&](absl::Duration from, absl::Duration until) {
    return from +
           absl::Microseconds(std::llround(where * static_cast<double>(absl::ToInt64Microseconds(until - from))));
  };
  const auto happens = [&](double probability) {
    const bool hit = draw >= 0 && draw < probability;
    draw -= probability;
    return hit;
  };
  if (happens(dropout.before_training())) {
    timeline->fault = Timeline::Fault::kLost;
    timeline->fault_at = within(absl::ZeroDuration(), timeline->downloaded);
  } else if (happens(dropout.in_training())) {
    timeline->fault = Timeline::Fault::kLost;
    timeline->fault_at = within(timeline->downloaded, timeline->trained);
  } else if (happens(dropout.in_upload())) {
    timeline->fault = Timeline::Fault::kLost;
    timeline->fault_at = within(timeline->trained, timeline->uploaded);
  } else if (happens(dropout.hang())) {
    timeline->fault = Timeline::Fault::kHangs;
    timeline->fault_at = within(absl::ZeroDuration(), timeline->uploaded);
  }
  if (timeline->fault != Timeline::Fault::kLost || !dropout.has_rejoin()) return;
  const absl::Duration pause = DurationOf(dropout.rejoin());
  timeline->back_at = timeline->fault_at + pause;
  for (absl::Duration* phase : {&timeline->downloaded, &timeline->trained, &timeline->uploaded}) {
    if (*phase > timeline->fault_at) *phase += pause;
  }
  timeline->uploaded = std::max(timeline->uploaded, *timeline->back_at);
}

void Behaviour::Leave(const Turn& turn, Timeline* timeline) const {
  if (timeline->fault != Timeline::Fault::kNone) return;  // one fault a round
  absl::Duration from = absl::ZeroDuration();
  while (true) {
    const absl::Duration end = std::max(EndOfStay(turn.client, turn.now + from) - turn.now, absl::ZeroDuration());
    if (end >= timeline->uploaded) return;
    from = NextArrival(turn.client, turn.now + end) - turn.now;
    if (timeline->fault == Timeline::Fault::kNone) {  // what comes after is a longer wait
      timeline->fault = Timeline::Fault::kLost;
      timeline->fault_at = end;
      timeline->back_at = from;
    }
    for (absl::Duration* phase : {&timeline->downloaded, &timeline->trained, &timeline->uploaded}) {
      if (*phase > end) *phase += from - end;
    }
  }
}

absl::Duration Behaviour::EndOfStay(int64_t client, absl::Duration now) const {
  if (always_available()) return absl::InfiniteDuration();
  if (stays_.has_value()) return stays_->EndOfStay(client, now);
  const double part = options_.config.availability().part();
  if (part >= 1) return absl::InfiniteDuration();
  const absl::Duration begin = Micros(RandomOf(options_.seed, client, "availability").NextDouble() * 86'400);
  absl::Duration at;  // since the stay of the day began
  absl::IDivDuration(now - begin + kDay, kDay, &at);
  const absl::Duration stay = Micros(part * 86'400);
  return at < stay ? now + (stay - at) : now;
}

absl::Duration Behaviour::NextArrival(int64_t client, absl::Duration now) const {
  if (stays_.has_value()) return stays_->NextArrival(client, now);
  if (IsAvailable(client, now)) return now;
  const absl::Duration begin = Micros(RandomOf(options_.seed, client, "availability").NextDouble() * 86'400);
  absl::Duration at;
  absl::IDivDuration(now - begin + kDay, kDay, &at);
  return now + (kDay - at);
}

const proto::HostileConfig* Behaviour::HostileOf(int64_t client) const {
  const int group = PartOf(client, options_.clients, PartsOf(options_.config.hostile()), MixSeed(options_.seed, 1));
  return group < 0 ? nullptr : &options_.config.hostile(group);
}

int64_t Behaviour::MaxRankOf(int64_t client) const {
  const int group = PartOf(client, options_.clients, PartsOf(options_.config.ranks()), MixSeed(options_.seed, 2));
  return group < 0 ? 0 : options_.config.ranks(group).rank();
}

}  // namespace weft::simulation
