#include "simulation/run/serve.h"

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/parallel.h"
#include "common/status_macros.h"
#include "server/broadcast/broadcast.h"
#include "simulation/cohort/group_trainer.h"
#include "simulation/cohort/site.h"
#include "simulation/ranks/convert.h"
#include "simulation/run/prepare.h"
#include "simulation/scenario/scenario.h"

namespace weft::simulation {
namespace {

class Server {
 public:
  explicit Server(const ServeOptions& options) : options_(options) {}

  absl::StatusOr<int> Run() {
    while (true) {
      WEFT_ASSIGN_OR_RETURN(const std::string bytes, options_.link->Receive(0));
      Command command;
      if (!command.ParseFromString(bytes)) return absl::InternalError("rank 0: a garbled command");
      if (command.has_quit()) return command.quit().exit_code();
      // What fails between answers is told with the next one; until then nothing else is tried.
      if (failed_.ok()) failed_ = Handle(command);
      if (failed_.ok() || !(command.has_train() || command.has_share())) continue;
      Answer answer;
      answer.set_code(static_cast<int>(failed_.code()));
      answer.set_message(std::string(failed_.message()));
      WEFT_RETURN_IF_ERROR(options_.link->Send(0, answer.SerializeAsString()));
    }
  }

 private:
  struct Attempt {
    std::shared_ptr<server::Fold> fold;
    std::shared_ptr<const Adapter> received;
    std::unordered_map<int64_t, server::WaitingUpdate> updates;  // by client
    int64_t folded = 0;
  };

  absl::Status Handle(const Command& command) {
    if (command.has_run()) return Open(command.run());
    if (!run_.has_value()) return absl::InternalError("no run is open");
    if (command.has_step()) return Step(command.step());
    if (command.has_attempt()) return Open(command.attempt());
    if (!attempt_.has_value()) return absl::InternalError("no attempt is open");
    if (command.has_train()) return Train(command.train());
    if (command.has_share()) return Share(command.share());
    return absl::InternalError("rank 0: an unknown command; start the same version on all ranks");
  }

  absl::Status Open(const simulation::OpenRun& run) {
    attempt_.reset();
    run_.reset();
    WEFT_ASSIGN_OR_RETURN(const proto::Scenario scenario, options_.scenario(run.number()));
    if (FingerprintOf(scenario) != run.fingerprint()) {
      return absl::InvalidArgumentError(
          "has another scenario than rank 0; start all ranks with the same file and --set");
    }
    WEFT_ASSIGN_OR_RETURN(run_, Prepare(scenario, options_.trainer, LocalRanks()));
    if (run_->trainer->base_hash() != run.base_hash()) {
      return absl::InvalidArgumentError("has another base than rank 0; give all ranks the same files");
    }
    WEFT_ASSIGN_OR_RETURN(const std::string data_hash, DataHashOf(scenario));
    if (data_hash != run.data_hash()) {
      return absl::InvalidArgumentError("has other data, traces or cohorts than rank 0; give all ranks the same files");
    }
    WEFT_ASSIGN_OR_RETURN(layout_, PrepareTrainer(run_->site()));
    return absl::OkStatus();
  }

  absl::Status Step(const BaseStep& step) {
    WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Adapter> values, FromMessage(step.step()));
    return run_->trainer->AddToBase(run_->job->config.name(), step.round(), *values);
  }

  absl::Status Open(const simulation::OpenAttempt& open) {
    attempt_.reset();
    WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Adapter> state, FromMessage(open.state()));
    WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const server::Broadcast> broadcast, server::Broadcast::Create(state));
    Attempt attempt;
    WEFT_ASSIGN_OR_RETURN(attempt.fold, MakeFold(run_->site(), state, open.round(), open.updates()));
    attempt.received = ReceivedOf(*broadcast);
    attempt_.emplace(std::move(attempt));
    return absl::OkStatus();
  }

  absl::Status Train(const TrainGroups& wanted) {
    WEFT_RETURN_IF_ERROR(Fold(wanted.accepted()));
    std::map<int64_t, std::shared_ptr<const KeptState>> kept;
    std::vector<std::vector<CohortClient>> groups;
    for (const TrainGroups::Group& group : wanted.groups()) {
      std::vector<CohortClient>& clients = groups.emplace_back();
      for (const TrainGroups::Client& client : group.clients()) {
        WEFT_ASSIGN_OR_RETURN(kept[client.index()], FromMessage(client.kept()));
        clients.push_back({.index = client.index(),
                           .name = run_->population->Name(client.index()),
                           .max_rank = run_->behaviour->MaxRankOf(client.index()),
                           .hostile = run_->behaviour->HostileOf(client.index())});
      }
    }
    const GroupTrainer trainer(TrainingOf(
        run_->site(), layout_, attempt_->fold, attempt_->received,
        [&](int64_t client) -> absl::StatusOr<std::shared_ptr<const KeptState>> { return kept.at(client); }));
    std::vector<absl::StatusOr<std::vector<absl::StatusOr<SentUpdate>>>> results(
        groups.size(), std::vector<absl::StatusOr<SentUpdate>>());
    ParallelFor(run_->threads, std::ssize(groups), [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        std::vector<const CohortClient*> clients;
        for (const CohortClient& client : groups[g]) clients.push_back(&client);
        results[g] = trainer.Train(clients);
      }
    });
    Answer answer;
    for (size_t g = 0; g < groups.size(); ++g) {
      WEFT_RETURN_IF_ERROR(results[g].status());
      for (size_t i = 0; i < groups[g].size(); ++i) {
        Keep(groups[g][i].index, std::move((*results[g])[i]), answer.add_trained());
      }
    }
    WEFT_ASSIGN_OR_RETURN(const std::string bytes, ToBytes(answer));
    return options_.link->Send(0, bytes);
  }

  void Keep(int64_t client, absl::StatusOr<SentUpdate> sent, Trained* trained) {
    if (!sent.ok()) {
      trained->set_code(static_cast<int>(sent.status().code()));
      trained->set_message(std::string(sent.status().message()));
      return;
    }
    trained->set_bytes(sent->bytes);
    trained->set_valid_code(static_cast<int>(sent->valid.code()));
    trained->set_valid_message(std::string(sent->valid.message()));
    *trained->mutable_facts() = sent->facts;
    ToMessage(sent->next, trained->mutable_next());
    attempt_->updates.insert_or_assign(client,
                                       server::WaitingUpdate{std::move(sent->facts), *std::move(sent->tensors), 0});
  }

  absl::Status Fold(const google::protobuf::RepeatedField<int64_t>& accepted) {
    std::vector<server::WaitingUpdate> updates;
    for (const int64_t client : accepted) {
      if (updates.size() == server::Fold::kLargestGroup) {
        WEFT_RETURN_IF_ERROR(attempt_->fold->Accumulate(updates));
        updates.clear();
      }
      const auto found = attempt_->updates.find(client);
      if (found == attempt_->updates.end()) return absl::InternalError(absl::StrCat("no update of client ", client));
      updates.push_back(std::move(found->second));
      attempt_->updates.erase(found);
    }
    attempt_->folded += accepted.size();
    return attempt_->fold->Accumulate(updates);
  }

  absl::Status Share(const simulation::Share& share) {
    WEFT_RETURN_IF_ERROR(Fold(share.accepted()));
    Answer answer;
    answer.set_folded(attempt_->folded);
    if (attempt_->folded == 0) return options_.link->Send(0, answer.SerializeAsString());
    WEFT_ASSIGN_OR_RETURN(const std::string sum, attempt_->fold->Save());
    attempt_.reset();
    WEFT_RETURN_IF_ERROR(options_.link->Send(0, answer.SerializeAsString()));
    return options_.link->Send(0, sum);
  }

  const ServeOptions& options_;
  std::optional<PreparedRun> run_;
  std::shared_ptr<const Layout> layout_;
  std::optional<Attempt> attempt_;
  absl::Status failed_;
};

}  // namespace

absl::StatusOr<int> Serve(const ServeOptions& options) { return Server(options).Run(); }

}  // namespace weft::simulation
