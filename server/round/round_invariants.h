#ifndef WEFT_SERVER_ROUND_ROUND_INVARIANTS_H_
#define WEFT_SERVER_ROUND_ROUND_INVARIANTS_H_

#include <map>
#include <set>
#include <string>

#include "server/round/round.h"

namespace weft::server {

// What must hold after every step of a Round. Create before Start or Resume; call Check with each step's actions.
class RoundInvariants {
 public:
  // Empty when all hold, else which one is broken.
  std::string Check(const Round& round, const RoundActions& actions);

 private:
  std::string CheckCounts(const Round& round) const;
  std::string CheckHistory(const Round& round) const;
  std::string CheckActions(const Round& round, const RoundActions& actions);

  bool ended_ = false;
  Round::State last_state_ = Round::State::kOpen;
  std::map<std::string, Round::MemberState> last_members_;
  std::set<std::string> holding_plan_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_ROUND_ROUND_INVARIANTS_H_
