#ifndef WEFT_SIMULATION_RANKS_TESTING_RECORDING_LINK_H_
#define WEFT_SIMULATION_RANKS_TESTING_RECORDING_LINK_H_

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "simulation/ranks/link.h"
#include "simulation/ranks/messages.pb.h"

namespace weft::simulation {

// For tests: rank 0 of three, which keeps the commands that it sends; what it receives is for others to say.
class RecordingLink : public Link {
 public:
  int rank() const override { return 0; }
  int ranks() const override { return 3; }
  absl::Status Send(int to, std::string_view bytes) override {
    Command command;
    EXPECT_TRUE(command.ParseFromString(std::string(bytes)));
    sent[to].push_back(command);
    return absl::OkStatus();
  }

  std::vector<Command> sent[3];
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_RANKS_TESTING_RECORDING_LINK_H_
