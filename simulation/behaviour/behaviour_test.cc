#include "simulation/behaviour/behaviour.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/file.h"
#include "proto/schema.h"

namespace weft::simulation {
namespace {

using ::testing::HasSubstr;

constexpr Work kWork = {.rows = 100, .bytes_down = 2'000, .bytes_up = 1'000};

class BehaviourTest : public testing::Test {
 protected:
  std::unique_ptr<Behaviour> Make(int64_t clients = 1'000, uint64_t seed = 1) {
    proto::BehaviourConfig config = config_;
    proto::ApplyDefaults(&config);
    auto behaviour = Behaviour::Create({.config = config, .clients = clients, .seed = seed});
    EXPECT_TRUE(behaviour.ok()) << behaviour.status();
    return *std::move(behaviour);
  }
  std::string Refusal() {
    proto::BehaviourConfig config = config_;
    proto::ApplyDefaults(&config);
    const absl::Status status = Behaviour::Create({.config = config, .clients = 10, .seed = 1}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }
  void SetSpeeds() {
    config_.mutable_speed()->set_rows_per_second(10);
    config_.mutable_link()->set_down_bytes_per_second(1'000);
    config_.mutable_link()->set_up_bytes_per_second(100);
  }
  proto::BehaviourConfig config_;
};

TEST_F(BehaviourTest, TimelineOf_WithoutConfigTakesNoTime) {
  const Timeline timeline = Make()->TimelineOf({.client = 3}, kWork);
  EXPECT_EQ(timeline.uploaded, absl::ZeroDuration());
  EXPECT_TRUE(timeline.answers());
  EXPECT_TRUE(Make()->IsAvailable(3, absl::Hours(5)));
}

TEST_F(BehaviourTest, TimelineOf_AddsUpDownloadTrainingUpload) {
  SetSpeeds();
  config_.mutable_link()->mutable_latency()->set_nanos(500'000'000);
  const Timeline timeline = Make()->TimelineOf({.client = 3}, kWork);
  EXPECT_EQ(timeline.downloaded, absl::Seconds(2.5));
  EXPECT_EQ(timeline.trained, absl::Seconds(12.5));
  EXPECT_EQ(timeline.uploaded, absl::Seconds(23));
}

TEST_F(BehaviourTest, TimelineOf_ClientsDifferByTheirSigmaForGood) {
  SetSpeeds();
  config_.mutable_speed()->set_sigma(1);
  const auto behaviour = Make();
  std::vector<double> logs;
  for (int64_t client = 0; client < 1'000; ++client) {
    const Timeline timeline = behaviour->TimelineOf({.client = client}, kWork);
    const absl::Duration training = timeline.trained - timeline.downloaded;
    EXPECT_EQ(behaviour->TimelineOf({.client = client, .round = 9}, kWork).trained, timeline.trained);
    logs.push_back(std::log(absl::ToDoubleSeconds(training) / 10));
  }
  double sum = 0, square = 0;
  for (const double log : logs) {
    sum += log;
    square += log * log;
  }
  EXPECT_NEAR(sum / 1'000, 0, 0.1);
  EXPECT_NEAR(std::sqrt(square / 1'000), 1, 0.1);
}

TEST_F(BehaviourTest, TimelineOf_StragglersAreDrawnEachRound) {
  SetSpeeds();
  config_.mutable_speed()->set_stragglers(0.25);
  config_.mutable_speed()->set_straggler_factor(4);
  const auto behaviour = Make();
  int slow = 0, both = 0;
  for (int64_t client = 0; client < 1'000; ++client) {
    const auto is_slow = [&](int64_t round) {
      const Timeline timeline = behaviour->TimelineOf({.client = client, .round = round}, kWork);
      return timeline.trained - timeline.downloaded == absl::Seconds(40);
    };
    slow += is_slow(1) ? 1 : 0;
    both += is_slow(1) && is_slow(2) ? 1 : 0;
  }
  EXPECT_NEAR(slow, 250, 45);
  EXPECT_NEAR(both, 62, 30);
}

TEST_F(BehaviourTest, TimelineOf_SpeedTrace) {
  const std::string path = testing::TempDir() + "speed.csv";
  ASSERT_TRUE(WriteFileAtomically(path, std::string_view("client,rows_per_second\na,50\nb,25\n")).ok());
  config_.mutable_speed()->set_trace(path);
  EXPECT_EQ(Make()->TimelineOf({.client = 3}, kWork).trained, absl::Seconds(4));
}

TEST_F(BehaviourTest, Dropout_InEachPhaseWithItsProbability) {
  SetSpeeds();
  config_.mutable_dropout()->set_before_training(0.1);
  config_.mutable_dropout()->set_in_training(0.2);
  config_.mutable_dropout()->set_in_upload(0.15);
  config_.mutable_dropout()->set_hang(0.05);
  const auto behaviour = Make();
  int before = 0, in_training = 0, in_upload = 0, hang = 0;
  for (int64_t client = 0; client < 2'000; ++client) {
    const Timeline timeline = behaviour->TimelineOf({.client = client}, kWork);
    if (timeline.fault == Timeline::Fault::kHangs) ++hang;
    if (timeline.fault != Timeline::Fault::kNone) {
      EXPECT_FALSE(timeline.answers());
      EXPECT_GE(timeline.fault_at, absl::ZeroDuration());
      EXPECT_LE(timeline.fault_at, timeline.uploaded);
    }
    if (timeline.fault != Timeline::Fault::kLost) continue;
    if (timeline.fault_at <= timeline.downloaded) {
      ++before;
    } else if (timeline.fault_at <= timeline.trained) {
      ++in_training;
    } else {
      ++in_upload;
    }
  }
  EXPECT_NEAR(before, 200, 50);
  EXPECT_NEAR(in_training, 400, 70);
  EXPECT_NEAR(in_upload, 300, 60);
  EXPECT_NEAR(hang, 100, 40);
}

TEST_F(BehaviourTest, Dropout_AnotherAttemptIsAnotherDraw) {
  config_.mutable_dropout()->set_in_training(0.5);
  const auto behaviour = Make();
  int differ = 0;
  for (int64_t client = 0; client < 200; ++client) {
    const auto answers = [&](int64_t attempt) {
      return behaviour->TimelineOf({.client = client, .attempt = attempt}, kWork).answers();
    };
    differ += answers(1) != answers(2) ? 1 : 0;
  }
  EXPECT_NEAR(differ, 100, 35);
}

TEST_F(BehaviourTest, Dropout_WhoRejoinsGoesOnWhereItWas) {
  SetSpeeds();
  config_.mutable_dropout()->set_in_training(1);
  config_.mutable_dropout()->mutable_rejoin()->set_seconds(7);
  const Timeline timeline = Make()->TimelineOf({.client = 3}, kWork);
  EXPECT_TRUE(timeline.answers());
  EXPECT_EQ(*timeline.back_at, timeline.fault_at + absl::Seconds(7));
  EXPECT_EQ(timeline.downloaded, absl::Seconds(2));
  EXPECT_EQ(timeline.trained, absl::Seconds(19));
  EXPECT_EQ(timeline.uploaded, absl::Seconds(29));
}

TEST_F(BehaviourTest, Daily_EachClientHasItsPartOfTheDay) {
  config_.mutable_availability()->set_kind("daily");
  config_.mutable_availability()->set_part(0.25);
  const auto behaviour = Make();
  EXPECT_FALSE(behaviour->always_available());
  for (int64_t client = 0; client < 20; ++client) {
    int there = 0;
    for (int minute = 0; minute < 3 * 1'440; ++minute) {
      there += behaviour->IsAvailable(client, absl::Minutes(minute)) ? 1 : 0;
    }
    EXPECT_NEAR(there, 3 * 360, 3);
  }
}

TEST_F(BehaviourTest, Daily_WhoseStayEndsAtWorkIsLostAndComesBack) {
  SetSpeeds();
  config_.mutable_availability()->set_kind("daily");
  config_.mutable_availability()->set_part(0.5);
  const auto behaviour = Make();
  // The last moment of a stay, found by trying.
  absl::Duration now;
  while (!behaviour->IsAvailable(3, now) || behaviour->IsAvailable(3, now + absl::Seconds(10))) now += absl::Seconds(1);
  const Timeline timeline = behaviour->TimelineOf({.client = 3, .now = now}, kWork);
  EXPECT_EQ(timeline.fault, Timeline::Fault::kLost);
  EXPECT_LE(timeline.fault_at, absl::Seconds(10));
  EXPECT_EQ(*timeline.back_at - timeline.fault_at, absl::Hours(12));
  EXPECT_EQ(timeline.uploaded, absl::Seconds(22) + absl::Hours(12));
  EXPECT_TRUE(behaviour->IsAvailable(3, now + *timeline.back_at));
}

TEST_F(BehaviourTest, Availability_Trace) {
  const std::string path = testing::TempDir() + "stays.csv";
  ASSERT_TRUE(WriteFileAtomically(path, std::string_view("client,from,until\na,0,10\nb,20,30\n")).ok());
  config_.mutable_availability()->set_kind("trace");
  EXPECT_THAT(Refusal(), HasSubstr("behaviour.availability.trace: missing"));
  config_.mutable_availability()->set_trace(path);
  const auto behaviour = Make();
  EXPECT_TRUE(behaviour->IsAvailable(2, absl::Seconds(9)));
  EXPECT_FALSE(behaviour->IsAvailable(3, absl::Seconds(9)));
  SetSpeeds();
  const Timeline timeline = Make()->TimelineOf({.client = 2}, kWork);
  EXPECT_EQ(timeline.fault_at, absl::Seconds(10));
  EXPECT_EQ(*timeline.back_at, absl::Seconds(30));
  EXPECT_EQ(timeline.uploaded, absl::Seconds(62)) << "10 of its 22 s in each of two stays, 2 in the third";
}

TEST_F(BehaviourTest, HostileAndRanks_AreExactPartsOfThePopulation) {
  proto::HostileConfig& flip = *config_.add_hostile();
  flip.set_attack("sign_flip");
  flip.set_part(0.2);
  proto::HostileConfig& nan = *config_.add_hostile();
  nan.set_attack("nan");
  nan.set_part(0.1);
  proto::RankConfig& rank = *config_.add_ranks();
  rank.set_part(0.5);
  rank.set_rank(2);
  const auto behaviour = Make(10);
  int flips = 0, nans = 0, small = 0;
  for (int64_t client = 0; client < 10; ++client) {
    const proto::HostileConfig* hostile = behaviour->HostileOf(client);
    flips += hostile != nullptr && hostile->attack() == "sign_flip" ? 1 : 0;
    nans += hostile != nullptr && hostile->attack() == "nan" ? 1 : 0;
    small += behaviour->MaxRankOf(client) == 2 ? 1 : 0;
  }
  EXPECT_EQ(flips, 2);
  EXPECT_EQ(nans, 1);
  EXPECT_EQ(small, 5);
}

TEST_F(BehaviourTest, Create_RefusesPartsAboveAll) {
  for (int i = 0; i < 2; ++i) {
    proto::HostileConfig& hostile = *config_.add_hostile();
    hostile.set_attack("nan");
    hostile.set_part(0.6);
  }
  EXPECT_THAT(Refusal(), HasSubstr("behaviour.hostile: the parts: come to 1.2"));
  config_.clear_hostile();
  for (int i = 0; i < 2; ++i) {
    proto::RankConfig& rank = *config_.add_ranks();
    rank.set_rank(1);
    rank.set_part(0.6);
  }
  EXPECT_THAT(Refusal(), HasSubstr("behaviour.ranks"));
  config_.clear_ranks();
  config_.mutable_dropout()->set_hang(0.6);
  config_.mutable_dropout()->set_in_upload(0.6);
  EXPECT_THAT(Refusal(), HasSubstr("behaviour.dropout: the probabilities"));
}

}  // namespace
}  // namespace weft::simulation
