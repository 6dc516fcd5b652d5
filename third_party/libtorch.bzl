"""Finds LibTorch (the torch wheel: headers and libraries) and exposes it as @libtorch.

Looked for, in this order: $LIBTORCH (a folder with include/ and lib/), the project's own environment
.venv/lib/python3.*/site-packages/torch, and a torch that python3 can import.
"""

_BUILD = """
cc_library(
    name = "libtorch",
    hdrs = glob(["include/**/*.h"]),
    includes = ["include", "include/torch/csrc/api/include"],
    linkopts = ["-L{path}/lib", "-Wl,--push-state,--no-as-needed", "-ltorch_cpu", "-lc10", "-Wl,--pop-state", {rpaths}],
    visibility = ["//visibility:public"],
)

# torch.distributed, whose headers end in .hpp.
cc_library(
    name = "c10d",
    hdrs = glob(["include/torch/csrc/distributed/c10d/**/*.hpp"]),
    visibility = ["//visibility:public"],
    deps = [":libtorch"],
)
"""

def _find(ctx):
    path = ctx.os.environ.get("LIBTORCH")
    if path:
        return path
    probe = ctx.execute(["sh", "-c", "ls -d {}/.venv/lib/python3.*/site-packages/torch 2>/dev/null | head -1".format(
        ctx.path(Label("//:WORKSPACE")).dirname,
    )])
    if probe.stdout.strip():
        return probe.stdout.strip()
    probe = ctx.execute(["python3", "-c", "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"])
    if probe.return_code == 0:
        return probe.stdout.strip()
    fail("LibTorch not found: run deploy/setup.sh, or set LIBTORCH to a folder with include/ and lib/ (the torch wheel)")

def _impl(ctx):
    path = _find(ctx)

    # torch/include also carries an old google/protobuf and a new fmt: only these four folders may be seen.
    for d in ["torch", "ATen", "c10", "caffe2"]:
        ctx.symlink(path + "/include/" + d, "include/" + d)
    ctx.symlink(path + "/lib", "lib")

    # libtorch_cpu.so of the CUDA wheel needs libcudart and libcupti, which their own wheels bring next to torch.
    dirs = [path + "/lib"] + ctx.execute(["sh", "-c", "ls -d {}/../nvidia/*/lib 2>/dev/null".format(path)]).stdout.strip().split("\n")
    rpaths = ['"-Wl,-rpath,{0}", "-Wl,-rpath-link,{0}"'.format(d) for d in dirs if d]
    ctx.file("BUILD", _BUILD.format(path = path, rpaths = ", ".join(rpaths)))

libtorch_repository = repository_rule(implementation = _impl, environ = ["LIBTORCH"], local = True)
