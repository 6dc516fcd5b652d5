#include "training/torch_errors.h"

#include <c10/util/Exception.h>

#include <new>
#include <string>

#include "absl/strings/str_cat.h"

namespace weft {
namespace {

absl::Status OutOfMemory(const std::string& detail) {
  return absl::ResourceExhaustedError(absl::StrCat("out of memory while training (", detail,
                                                   "); use a smaller training.batch_size or training.max_length"));
}

}  // namespace

absl::Status CatchTorch(const std::function<absl::Status()>& work) {
  try {
    return work();
  } catch (const c10::OutOfMemoryError& error) {
    return OutOfMemory(error.what_without_backtrace());
  } catch (const c10::Error& error) {
    const std::string what = error.what_without_backtrace();
    // The CPU allocator throws the general error; its name is the only mark.
    if (what.find("DefaultCPUAllocator") != std::string::npos) return OutOfMemory(what);
    return absl::InternalError(absl::StrCat("LibTorch failed: ", what));
  } catch (const std::bad_alloc&) {
    return OutOfMemory("allocation refused");
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("LibTorch failed: ", error.what()));
  }
}

}  // namespace weft
