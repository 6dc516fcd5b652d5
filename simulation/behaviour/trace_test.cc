#include "simulation/behaviour/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file.h"

namespace weft::simulation {
namespace {

using ::testing::HasSubstr;

std::string Write(const std::string& text) {
  const std::string path = testing::TempDir() + testing::UnitTest::GetInstance()->current_test_info()->name() + ".csv";
  EXPECT_TRUE(WriteFileAtomically(path, std::string_view(text)).ok());
  return path;
}

template <typename Trace>
absl::StatusOr<Trace> Read(const std::string& path) {
  if constexpr (std::is_same_v<Trace, CohortTrace>) {
    return Trace::Read(path);
  } else {
    return Trace::Read(path, [](const std::string&) { return std::nullopt; });
  }
}

template <typename Trace>
std::string Refusal(const std::string& text) {
  const absl::Status status = Read<Trace>(Write(text)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

absl::Duration S(double seconds) { return absl::Seconds(seconds); }

TEST(SpeedTraceTest, Read_ClientsAreDealtInTurn) {
  const auto trace = Read<SpeedTrace>(Write("client,rows_per_second\nphone,2.5\r\nlaptop,40\n"));
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->RowsPerSecond(0), 2.5);
  EXPECT_EQ(trace->RowsPerSecond(1), 40);
  EXPECT_EQ(trace->RowsPerSecond(102), 2.5);
}

TEST(TraceTest, AClientThatIsNamedBehavesAsTheTraceSays) {
  const auto find = [](const std::string& name) {
    return name == "c" ? std::optional<int64_t>(0) : name == "a" ? std::optional<int64_t>(5) : std::nullopt;
  };
  const auto speeds = SpeedTrace::Read(Write("client,rows_per_second\na,1\nb,2\nc,3\n"), find);
  ASSERT_TRUE(speeds.ok()) << speeds.status();
  EXPECT_EQ(speeds->RowsPerSecond(0), 3);
  EXPECT_EQ(speeds->RowsPerSecond(1), 2);
  EXPECT_EQ(speeds->RowsPerSecond(2), 3) << "dealt in turn";
  EXPECT_EQ(speeds->RowsPerSecond(5), 1);
  const auto stays = AvailabilityTrace::Read(Write("client,from,until\na,0,1\nb,0,2\na,5,7\nc,0,3\n"), find);
  ASSERT_TRUE(stays.ok()) << stays.status();
  EXPECT_EQ(stays->EndOfStay(5, S(5)), S(8)) << "a's, through the end of the trace";
  EXPECT_EQ(stays->EndOfStay(0, S(0)), S(3));
  EXPECT_EQ(stays->EndOfStay(1, S(0)), S(2));
}

TEST(SpeedTraceTest, Read_RefusesWithTheLine) {
  EXPECT_THAT(Refusal<SpeedTrace>("client,speed\na,1\n"), HasSubstr(".csv:1: found \"client,speed\""));
  const std::string header = "client,rows_per_second\n";
  EXPECT_THAT(Refusal<SpeedTrace>(header), HasSubstr("no client"));
  EXPECT_THAT(Refusal<SpeedTrace>(header + "a,1,2\n"), HasSubstr(":2: found \"a,1,2\""));
  EXPECT_THAT(Refusal<SpeedTrace>(header + ",1\n"), HasSubstr(":2:"));
  for (const char* speed : {"fast", "nan", "inf", "-1", ""}) {
    EXPECT_THAT(Refusal<SpeedTrace>(header + "a," + speed + "\n"), HasSubstr("expected a number from 0 on"));
  }
  EXPECT_THAT(Refusal<SpeedTrace>(header + "a,0\n"), HasSubstr("a speed of 0"));
  EXPECT_THAT(Refusal<SpeedTrace>(header + "a,1\n\na,2\n"), HasSubstr(":4: found a again, as in line 2"));
  EXPECT_EQ(Read<SpeedTrace>("/nowhere.csv").status().code(), absl::StatusCode::kNotFound);
}

TEST(AvailabilityTraceTest, StaysRepeatWithTheTrace) {
  const auto trace = Read<AvailabilityTrace>(Write("client,from,until\na,30,50\na,0,10\nb,20,100\n"));
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->EndOfStay(0, S(5)), S(10));
  EXPECT_EQ(trace->EndOfStay(0, S(10)), S(10)) << "not there";
  EXPECT_EQ(trace->NextArrival(0, S(10)), S(30));
  EXPECT_EQ(trace->NextArrival(0, S(35)), S(35));
  EXPECT_EQ(trace->NextArrival(0, S(60)), S(100)) << "the trace begins again";
  EXPECT_EQ(trace->EndOfStay(0, S(135)), S(150));
  EXPECT_EQ(trace->NextArrival(3, S(0)), S(20)) << "client 3 behaves like b";
  EXPECT_EQ(trace->NextArrival(1, S(100)), S(120));
}

TEST(AvailabilityTraceTest, StaysThatTouchAreOne) {
  const auto trace = Read<AvailabilityTrace>(Write("client,from,until\na,0,10\na,10,20\nb,0,5\nb,15,20\nc,0,20\n"));
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->EndOfStay(0, S(3)), absl::InfiniteDuration());
  EXPECT_EQ(trace->EndOfStay(1, S(17)), S(25)) << "around the end of the trace";
  EXPECT_EQ(trace->EndOfStay(2, S(50)), absl::InfiniteDuration());
}

TEST(AvailabilityTraceTest, Read_RefusesWithTheLine) {
  const std::string header = "client,from,until\n";
  EXPECT_THAT(Refusal<AvailabilityTrace>(header + "a,5,5\n"),
              HasSubstr(":2: found until 5, expected more than from, 5"));
  EXPECT_THAT(Refusal<AvailabilityTrace>(header + "a,0,10\nb,5,9\na,9,12\n"), HasSubstr(":4: found a stay of a"));
  EXPECT_THAT(Refusal<AvailabilityTrace>(header + "a,0\n"), HasSubstr(":2:"));
}

TEST(CohortTraceTest, Read_ALineIsARound) {
  const auto trace = Read<CohortTrace>(Write("b,a\nc\r\n"));
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_THAT(*trace->Of(1), testing::ElementsAre("a", "b"));
  EXPECT_THAT(*trace->Of(2), testing::ElementsAre("c"));
  EXPECT_EQ(trace->Of(3), nullptr);
}

TEST(CohortTraceTest, Read_RefusesWithTheLine) {
  EXPECT_THAT(Refusal<CohortTrace>("a,b\n\nc\n"), HasSubstr(":2: found \"\""));
  EXPECT_THAT(Refusal<CohortTrace>("a,b,a\n"), HasSubstr(":1: found a twice"));
  EXPECT_EQ(Read<CohortTrace>("/nowhere").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace weft::simulation
