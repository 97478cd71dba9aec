"""Every error that RobustIDPS raises on purpose.

    RobustIDPSError                    exit
      InputError                        3    what was given can't be used
        ConfigError                          a setting, configuration file or option
        NameInvalidError                     a model, version or file name
        SchemaError                          columns, classes or values against a schema
        DatasetError                         a data set file or folder
        CaptureError                         a packet capture
          TruncatedCaptureError              ... that ends in the middle of a packet
        NotFoundError                        a model, version or file that isn't there
      RefusedError                      4    the rules said no; nothing has changed
        ModelValidationError                 a model failed validation (the guide's name)
      IntegrityError                    5    not what it claims to be: don't trust it, don't retry
        BundleError                          a bundle that is malformed or was edited
          ParityError                        ... or whose ONNX disagrees with the native model
        LedgerError                          the decision ledger was edited
        UpdateError                          an update that no trusted publisher signed, or that is malformed
      UnavailableError                  6    may work later, or once something is installed
        MissingExtraError                    a framework isn't installed
        RegistryUnavailableError             MLflow doesn't answer
        RemoteUnavailableError               no mirror of the remote registry answers as it should
        StorageError                         the disk is full or the folder read-only
      ConflictError                     7    somebody else was first
        VersionExistsError                   that version is taken

An error says what is wrong, where, and what to do. `where` names the file, row or key; `remedy` is an instruction.
Exit code 1 is a defect of ours, 2 a wrong command line, 130 an interruption.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

__all__ = [
    "BundleError",
    "CaptureError",
    "ConfigError",
    "ConflictError",
    "DatasetError",
    "InputError",
    "IntegrityError",
    "LedgerError",
    "MissingExtraError",
    "ModelValidationError",
    "NameInvalidError",
    "NotFoundError",
    "ParityError",
    "RefusedError",
    "RegistryUnavailableError",
    "RemoteUnavailableError",
    "RobustIDPSError",
    "SchemaError",
    "StorageError",
    "TruncatedCaptureError",
    "UnavailableError",
    "UpdateError",
    "VersionExistsError",
    "printable",
    "without_passwords",
]


def printable(text: object, limit: int = 200) -> str:
    """`text` made safe for a terminal, a log and one line: control, format and surrogate characters become `?`."""
    clean = "".join("?" if unicodedata.category(c)[0] == "C" else c for c in str(text))
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


_USERINFO = re.compile(r"(://[^/@:\s]*):\S*@")
_PARAMETER = re.compile(r"(?i)([?&;](?:ssl)?(?:password|passwd|pwd|token|secret|key)=)[^&;\s]*")


def without_passwords(text: str) -> str:
    """`text` with the passwords of all addresses in it replaced: `://USER:***@`, `?password=***`."""
    return _PARAMETER.sub(r"\1***", _USERINFO.sub(r"\1:***@", text))


class RobustIDPSError(Exception):
    """Base of all errors; `exit_code` is what the command line ends with.

    Args:
        problem: what is wrong, one sentence.
        where: the file, row, column or key it concerns.
        remedy: what to do about it.
    """

    exit_code = 1

    def __init__(self, problem: str, *, where: object | None = None, remedy: str | None = None) -> None:
        self.problem = printable(problem, 2000)
        self.where = None if where is None else printable(where, 500)
        self.remedy = None if remedy is None else printable(remedy, 1000)
        super().__init__(problem)

    def __reduce__(self) -> tuple[Any, ...]:
        """An error that crosses to another process is the same there, whatever a subclass's constructor takes."""
        return _again, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        head = f"{self.where}: {self.problem}" if self.where else self.problem
        return f"{head} ({self.remedy})" if self.remedy else head


def _again(kind: type[RobustIDPSError], args: tuple[Any, ...]) -> RobustIDPSError:
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class InputError(RobustIDPSError):
    exit_code = 3


class ConfigError(InputError): ...


class NameInvalidError(InputError): ...


class SchemaError(InputError): ...


class DatasetError(InputError): ...


class CaptureError(InputError): ...


class TruncatedCaptureError(CaptureError): ...


class NotFoundError(InputError): ...


class RefusedError(RobustIDPSError):
    exit_code = 4


class ModelValidationError(RefusedError): ...


class IntegrityError(RobustIDPSError):
    exit_code = 5


class BundleError(IntegrityError): ...


class ParityError(BundleError): ...


class LedgerError(IntegrityError): ...


class UpdateError(IntegrityError): ...


class UnavailableError(RobustIDPSError):
    exit_code = 6


class MissingExtraError(UnavailableError):
    def __init__(self, what: str, extra: str, distribution: str = "robustidps") -> None:
        super().__init__(f"{what} is not installed", remedy=f"pip install '{distribution}[{extra}]'")
        self.extra = extra


class RegistryUnavailableError(UnavailableError): ...


class RemoteUnavailableError(UnavailableError): ...


class StorageError(UnavailableError): ...


class ConflictError(RobustIDPSError):
    exit_code = 7


class VersionExistsError(ConflictError): ...
