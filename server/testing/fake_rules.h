#ifndef WEFT_SERVER_TESTING_FAKE_RULES_H_
#define WEFT_SERVER_TESTING_FAKE_RULES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/mutex.h"

namespace weft::server {

// Rules that show what a coordinator must cope with; a test that links //server/testing:fake_rules names them in its
// jobs. Each adds the mean of the deltas, and
//   fake_base         makes a step of the base in each round, of as many components as the round's number;
//   fake_alternating  sends lora_b in odd rounds and lora_a in even ones, and keeps a tensor of role server.lora_a;
//   fake_private      spends epsilon 1 in each round of a budget of kFakeBudget, or 3 in a job of seed kSpendsTooMuch,
//   and
//                     finishes a round without updates;
//   fake_components   asks for 2 components of each update;
//   fake_gate         folds only while the FoldGate is open;
//   fake_ranks        takes mixed ranks, keeps single updates, and needs kFakeBytesPerUpdate for each.
constexpr double kFakeBudget = 2.5;
constexpr uint64_t kSpendsTooMuch = 1000;
constexpr double kFakeDelta = 1e-5;
constexpr int kFakeBytesPerUpdate = 1 << 20;

// What the rule fake_gate does. Thread-safe.
class FoldGate {
 public:
  static FoldGate& Global();
  void Close();
  void Open();
  // Sizes of the groups folded since Close.
  std::vector<size_t> groups();
  // Waits until so many groups have come to the gate since Close.
  void WaitForGroups(size_t count);
  // Of the rule: notes the group, and waits while the gate is closed.
  void Pass(size_t group);

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ = true;
  std::vector<size_t> groups_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_TESTING_FAKE_RULES_H_
