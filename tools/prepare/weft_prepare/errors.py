"""Errors as the other binaries tell them: a canonical code, one line, the exit code of common/exit_code.h."""

import errno

EXIT_CODES = {
    "INTERNAL": 1,
    "INVALID_ARGUMENT": 2,
    "NOT_FOUND": 3,
    "FAILED_PRECONDITION": 5,
    "ALREADY_EXISTS": 5,
    "PERMISSION_DENIED": 5,
    "RESOURCE_EXHAUSTED": 6,
    "CANCELLED": 7,
}

_CODES_OF_ERRNO = {
    errno.ENOENT: "NOT_FOUND",
    errno.EACCES: "PERMISSION_DENIED",
    errno.EPERM: "PERMISSION_DENIED",
    errno.EROFS: "PERMISSION_DENIED",
    errno.ENOSPC: "RESOURCE_EXHAUSTED",
    errno.EDQUOT: "RESOURCE_EXHAUSTED",
    errno.EFBIG: "RESOURCE_EXHAUSTED",
    errno.EISDIR: "INVALID_ARGUMENT",
    errno.ENOTDIR: "INVALID_ARGUMENT",
    errno.EEXIST: "ALREADY_EXISTS",
    errno.ENOTEMPTY: "ALREADY_EXISTS",
}


class PrepareError(Exception):
    """`code` is a key of EXIT_CODES; the message says what was found, what was expected and what to do."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def from_os_error(error):
    code = _CODES_OF_ERRNO.get(error.errno, "INTERNAL")
    place = f"{error.filename}: " if error.filename is not None else ""
    advice = "; free some space and run again" if code == "RESOURCE_EXHAUSTED" else ""
    return PrepareError(code, f"{place}{error.strerror or error}{advice}")


def error_line(error, program="weft prepare"):
    # Messages of libraries may have several lines; scripts and logs read one.
    return f"{program}: {error.code}: {' '.join(str(error).split())}"
