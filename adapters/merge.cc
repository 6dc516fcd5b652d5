#include "adapters/merge.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "adapters/base.h"
#include "adapters/forms/form.h"
#include "adapters/merge_folder.h"
#include "adapters/peft_folder.h"
#include "adapters/safetensors.h"
#include "common/half.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr char kRoleHead[] = "head";

// A module of the base and how checkpoints hold it.
struct Module {
  MergedModule merged;
  std::string stored;          // its path there, with the base's prefix
  std::vector<int64_t> shape;  // of its weight there
  bool transposed = false;     // there the weight is [columns, rows]
  bool unread = false;         // a pooler that is another task's: checkpoints may lack it
};

bool IsUnread(const BaseDescription& base, const TaskDescription& task, size_t linear) {
  const auto index = static_cast<int>(linear);
  return task.pooler != index && std::any_of(base.tasks.begin(), base.tasks.end(),
                                             [&](const auto& other) { return other.second.pooler == index; });
}

std::vector<Module> Modules(const BaseDescription& base, const TaskDescription& task) {
  std::vector<Module> modules;
  const auto add = [&](MergedModule merged, const std::string& stored, std::vector<int64_t> shape, bool transposed) {
    const std::string path = stored.empty() ? merged.name : stored;
    modules.push_back({std::move(merged), path, std::move(shape), transposed, false});
  };
  if (base.transformer.has_value() && base.transformer->patches.has_value()) {
    const Patches& patches = *base.transformer->patches;
    const int64_t side = patches.patch_size;
    add({patches.projection, base.hidden_size, patches.channels * side * side, true}, "",
        {base.hidden_size, patches.channels, side, side}, false);
  }
  for (size_t i = 0; i < base.linears.size(); ++i) {
    const LinearModule& linear = base.linears[i];
    const int64_t out = linear.out_features, in = linear.in_features;
    add({linear.name, out, in, linear.bias}, linear.stored,
        linear.stored_transposed ? std::vector<int64_t>{in, out} : std::vector<int64_t>{out, in},
        linear.stored_transposed);
    modules.back().unread = IsUnread(base, task, i);
  }
  for (const NormModule& norm : base.norms)
    add({norm.name, norm.width, 1, norm.bias}, norm.stored, {norm.width}, false);
  return modules;
}

// Of modules that tensors of the adapter are named after. INVALID_ARGUMENT: a tensor that is of none.
absl::StatusOr<std::vector<Module>> TouchedModules(const BaseDescription& base, const TaskDescription& task,
                                                   const Layout& layout) {
  std::vector<Module> touched;
  size_t tensors = 0;
  std::set<std::string> names;
  for (const TensorSpec& spec : layout.tensors()) {
    if (spec.role != kRoleHead) names.insert(spec.name);
  }
  for (Module& module : Modules(base, task)) {
    const std::string beginning = module.merged.name + ".";
    size_t here = 0;
    for (auto it = names.lower_bound(beginning); it != names.end() && it->starts_with(beginning); ++it) ++here;
    if (here > 0) touched.push_back(std::move(module));
    tensors += here;
  }
  if (tensors == names.size()) return touched;
  for (const std::string& name : names) {
    const bool known = std::any_of(touched.begin(), touched.end(),
                                   [&](const Module& module) { return name.starts_with(module.merged.name + "."); });
    if (known) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("adapter tensor ", name,
                     " changes no weight of the base, so that it can't be merged; load the adapter beside the base"));
  }
  return absl::InternalError("tensors of the adapter belong to more than one module");
}

void Widen(std::span<const std::byte> bytes, const std::string& dtype, std::vector<float>* values) {
  const size_t width = SafetensorsDtypeSize(dtype);
  values->resize(bytes.size() / width);
  if (dtype == "F32") {
    std::memcpy(values->data(), bytes.data(), bytes.size());
    return;
  }
  for (size_t i = 0; i < values->size(); ++i) {
    uint16_t half;
    std::memcpy(&half, bytes.data() + i * width, width);
    (*values)[i] = dtype == "F16" ? FromF16(half) : FromBf16(half);
  }
}

// INVALID_ARGUMENT: what the dtype can't hold.
absl::Status Narrow(std::span<const float> values, const std::string& dtype, std::vector<std::byte>* bytes) {
  const size_t width = SafetensorsDtypeSize(dtype);
  bytes->resize(values.size() * width);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = dtype == "F16" ? ToF16(values[i]) : ToBf16(values[i]);
    const float kept = dtype == "F32" ? values[i] : dtype == "F16" ? FromF16(half) : FromBf16(half);
    if (!std::isfinite(kept)) {
      return absl::InvalidArgumentError(absl::StrCat("found ", values[i], " at element ", i, " after merging, which ",
                                                     dtype, " can't hold; merge into a base of a wider dtype"));
    }
    std::memcpy(bytes->data() + i * width, dtype == "F32" ? static_cast<const void*>(&values[i]) : &half, width);
  }
  return absl::OkStatus();
}

// [rows, columns] -> [columns, rows].
std::vector<float> Transposed(const std::vector<float>& values, int64_t rows, int64_t columns) {
  std::vector<float> result(values.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) result[c * rows + r] = values[r * columns + c];
  }
  return result;
}

bool IsFloat(const std::string& dtype) { return dtype == "F32" || dtype == "F16" || dtype == "BF16"; }

// What becomes of one tensor of the checkpoint.
struct Change {
  const Module* module = nullptr;
  bool weight = true;  // else its bias
};

class Merger {
 public:
  Merger(const BaseDescription& base, const Form& form, const Adapter& adapter, std::vector<Module> modules)
      : base_(base), form_(form), adapter_(adapter), modules_(std::move(modules)) {
    for (const Module& module : modules_) {
      Expect(module.stored, "weight", "gamma", {&module, true});
      if (module.merged.bias) Expect(module.stored, "bias", "beta", {&module, false});
    }
    for (const TensorSpec& spec : adapter_.layout().tensors()) {
      if (spec.role == kRoleHead) head_.push_back(&spec);
    }
  }

  bool has_head() const { return !head_.empty(); }
  int changed() const { return changed_; }

  // Looks at all that the folder's weights hold before anything is written. INVALID_ARGUMENT naming what is missing or
  // of another shape or dtype.
  absl::Status Plan(const std::vector<std::unique_ptr<SafetensorsFile>>& files) {
    std::set<const Module*> weights, biases;
    for (const auto& file : files) {
      for (const auto& [name, view] : file->tensors()) {
        has_prefix_ |= !base_.prefix.empty() && absl::StartsWith(name, base_.prefix);
        if (head_dtype_.empty() && IsFloat(view.dtype)) head_dtype_ = view.dtype;
        const Change change = ChangeOf(name);
        if (change.module == nullptr) continue;
        WEFT_RETURN_IF_ERROR(CheckTensor(name, view, change));
        (change.weight ? weights : biases).insert(change.module);
      }
    }
    for (const Module& module : modules_) {
      const bool has_weight = weights.contains(&module);
      if (has_weight && (!module.merged.bias || biases.contains(&module))) continue;
      if (module.unread && !has_weight) continue;
      return absl::InvalidArgumentError(absl::StrCat("the base's weights hold no ", module.stored,
                                                     has_weight ? ".bias" : ".weight",
                                                     "; they do not match its config.json"));
    }
    return absl::OkStatus();
  }

  // The name of a tensor of the checkpoint in the merged one. nullopt: the head takes its place. With a head, names get
  // the prefix where they lack it: readers take a checkpoint to be all of a task model or all of a bare one.
  std::optional<std::string> NewName(const std::string& name) const {
    for (const TensorSpec* spec : head_) {
      if (name == spec->name || name == base_.prefix + spec->name) return std::nullopt;
    }
    if (!has_head() || has_prefix_) return name;
    return base_.prefix + name;
  }

  // One file of the checkpoint; the first one takes the head. Adds the new names to `names`.
  absl::Status WriteFile(const SafetensorsFile& file, bool with_head, const std::string& path,
                         std::vector<std::string>* names) {
    std::vector<SafetensorToWrite> tensors;
    std::vector<std::pair<const std::string*, const SafetensorView*>> sources;  // of the head: null
    for (const auto& [name, view] : file.tensors()) {
      const std::optional<std::string> new_name = NewName(name);
      if (!new_name.has_value()) continue;
      tensors.push_back({*new_name, view.dtype, view.shape, {}});
      sources.emplace_back(&name, &view);
    }
    for (const TensorSpec* spec : with_head ? head_ : std::vector<const TensorSpec*>()) {
      tensors.push_back({spec->name, head_dtype_, spec->shape, {}});
      sources.emplace_back(nullptr, nullptr);
    }
    for (const SafetensorToWrite& tensor : tensors) names->push_back(tensor.name);
    const size_t first_head = tensors.size() - (with_head ? head_.size() : 0);
    return WriteSafetensors(path, tensors, file.metadata(), [&](size_t i) {
      return i < first_head ? Data(*sources[i].first, *sources[i].second) : HeadData(*head_[i - first_head]);
    });
  }

 private:
  // Checkpoints of old name parameters of norms as TensorFlow does.
  void Expect(const std::string& path, const char* end, const char* old_end, Change change) {
    expected_[absl::StrCat(path, ".", end)] = change;
    expected_[absl::StrCat(path, ".", old_end)] = change;
  }

  Change ChangeOf(const std::string& name) const {
    auto found = expected_.find(name);
    if (found == expected_.end()) found = expected_.find(base_.prefix + name);
    return found == expected_.end() ? Change{} : found->second;
  }

  static absl::Status CheckTensor(const std::string& name, const SafetensorView& view, const Change& change) {
    const Module& module = *change.module;
    const std::vector<int64_t> shape = change.weight ? module.shape : std::vector<int64_t>{module.merged.rows};
    if (view.shape == shape && IsFloat(view.dtype)) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", name, " of the base has dtype ", view.dtype, " and shape [", absl::StrJoin(view.shape, ", "),
        "], expected F32, F16 or BF16 and [", absl::StrJoin(shape, ", "), "]; the weights do not match config.json"));
  }

  absl::StatusOr<std::span<const std::byte>> Data(const std::string& name, const SafetensorView& view) {
    const Change change = ChangeOf(name);
    if (change.module == nullptr) return view.data;
    const MergedModule& module = change.module->merged;
    std::vector<float> values;
    Widen(view.data, view.dtype, &values);
    if (change.weight) {
      if (change.module->transposed) values = Transposed(values, module.columns, module.rows);
      WEFT_RETURN_IF_ERROR(form_.Merge(adapter_, module, values, {}));
      if (change.module->transposed) values = Transposed(values, module.rows, module.columns);
    } else {
      WEFT_RETURN_IF_ERROR(form_.Merge(adapter_, module, {}, values));
    }
    WEFT_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, Bytes(name, view.dtype, values));
    changed_ += !std::equal(bytes.begin(), bytes.end(), view.data.begin());
    return bytes;
  }

  absl::StatusOr<std::span<const std::byte>> HeadData(const TensorSpec& spec) {
    return Bytes(spec.name, head_dtype_, adapter_.tensor(spec));
  }

  absl::StatusOr<std::span<const std::byte>> Bytes(const std::string& name, const std::string& dtype,
                                                   std::span<const float> values) {
    const absl::Status status = Narrow(values, dtype, &buffer_);
    if (!status.ok()) return absl::Status(status.code(), absl::StrCat("tensor ", name, ": ", status.message()));
    return std::span<const std::byte>(buffer_);
  }

  const BaseDescription& base_;
  const Form& form_;
  const Adapter& adapter_;
  const std::vector<Module> modules_;
  std::map<std::string, Change> expected_;  // by name in the checkpoint of a task model
  std::vector<const TensorSpec*> head_;
  std::string head_dtype_;
  bool has_prefix_ = false;
  int changed_ = 0;
  std::vector<std::byte> buffer_;  // of the tensor that is being written
};

absl::StatusOr<LoadedPeftFolder> LoadAdapter(const MergeOptions& options, const BaseDescription& base) {
  WEFT_ASSIGN_OR_RETURN(LoadedPeftFolder loaded, LoadPeftFolder(options.adapter, base));
  WEFT_RETURN_IF_ERROR(CheckFinite(loaded.adapter));
  if (!loaded.base_hash.empty()) {
    WEFT_ASSIGN_OR_RETURN(const std::string hash, HashBase(options.base));
    if (hash != loaded.base_hash) {
      return absl::InvalidArgumentError(absl::StrCat(options.adapter, ": made for base ", loaded.base_hash, ", found ",
                                                     hash, " in ", options.base, "; merge into that base"));
    }
  }
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(loaded.config));
  WEFT_ASSIGN_OR_RETURN(std::optional<FormedAdapter> known, form->ForPeft(loaded.adapter));
  if (known.has_value()) {
    loaded.config = known->config;
    loaded.adapter = std::move(known->adapter);
  }
  return loaded;
}

absl::Status WriteMerged(const MergeOptions& options, const BaseFolder& folder, const BaseDescription& base,
                         const proto::TaskConfig& task, Merger* merger) {
  WEFT_RETURN_IF_ERROR(CopyOtherFiles(options.base, options.out));
  std::map<std::string, std::string> file_of;  // by tensor
  for (size_t i = 0; i < folder.files.size(); ++i) {
    std::vector<std::string> names;
    WEFT_RETURN_IF_ERROR(merger->WriteFile(*folder.files[i], /*with_head=*/i == 0,
                                           absl::StrCat(options.out, "/", folder.names[i]), &names));
    for (std::string& name : names) file_of.emplace(std::move(name), folder.names[i]);
  }
  if (folder.has_index) WEFT_RETURN_IF_ERROR(WriteIndex(options.out, file_of));
  return WriteMergedConfig(options.out, base.config, merger->has_head() ? &task : nullptr);
}

}  // namespace

absl::StatusOr<MergeResult> MergeAdapter(const MergeOptions& options) {
  WEFT_RETURN_IF_ERROR(CheckOutFolder(options.out));
  WEFT_ASSIGN_OR_RETURN(const BaseFolder folder, OpenBaseFolder(options.base));
  WEFT_ASSIGN_OR_RETURN(const BaseDescription base, DescribeBase(folder.config_json));
  WEFT_ASSIGN_OR_RETURN(const LoadedPeftFolder loaded, LoadAdapter(options, base));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(loaded.config));
  WEFT_ASSIGN_OR_RETURN(const TaskDescription* task, FindTask(base, loaded.task.type()));
  WEFT_ASSIGN_OR_RETURN(std::vector<Module> modules, TouchedModules(base, *task, loaded.adapter.layout()));
  Merger merger(base, *form, loaded.adapter, std::move(modules));
  WEFT_RETURN_IF_ERROR(merger.Plan(folder.files));
  if (const absl::Status status = WriteMerged(options, folder, base, loaded.task, &merger); !status.ok()) {
    std::error_code ignored;  // there was nothing in it before
    std::filesystem::remove_all(options.out, ignored);
    return status;
  }
  return MergeResult{loaded.task, merger.changed()};
}

}  // namespace weft
