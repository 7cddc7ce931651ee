"""From environment variables to the fields of the settings, and back to names people know."""

import difflib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from newsloom.settings.addresses import MASK
from newsloom.settings.groups import Group, PostgresSettings

PREFIX: Final = "NEWSLOOM_"
TEST_PREFIX: Final = "NEWSLOOM_TEST_"
"""Names that belong to the test suite; the service ignores them."""

UNITS: Final = ("seconds", "hours", "bytes", "records", "connections", "batches", "port", "ratio")

_MAX_SECRET_FILE_BYTES: Final = 64 * 1024
_CONTAINER_SECRETS: Final = Path("/run/secrets")
_TRUE: Final = frozenset({"1", "true", "yes", "on"})

SecretReader: TypeAlias = Callable[[Path, bool], str]
"""(path, insecure allowed) -> the secret; raises SettingsError with the end of a sentence."""


class SettingsError(Exception):
    """The environment cannot be used. `problems` holds one sentence each; `cli` exits with 2."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable and the field that it sets."""

    name: str
    group: str | None
    field: str
    meaning: str
    default: object
    is_secret: bool

    @property
    def file_name(self) -> str:
        """The variable that names a file instead; only for secrets."""
        return f"{self.name}_FILE"

    @property
    def unit(self) -> str:
        """The unit, which is the end of the name; empty for what has none."""
        return next((unit for unit in UNITS if self.field.split("_")[-1] == unit), "")

    def default_text(self) -> str:
        """Return the default as the reference table shows it."""
        if self.default is None:
            return "unset"
        return f"`{_plain(self.default)}`"

    def masked(self, settings: BaseModel) -> str:
        """Return the value in `settings` as text that may be shown; empty when not set."""
        holder = settings if self.group is None else getattr(settings, self.group)
        value = getattr(holder, self.field)
        if isinstance(holder, PostgresSettings) and self.field == "dsn":
            return holder.masked_dsn()
        if isinstance(value, SecretStr):
            return MASK
        return "" if value is None else _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return f"{value:g}" if isinstance(value, float) else str(value)


def variables(model: type[BaseModel]) -> tuple[Variable, ...]:
    """Every variable of a settings model, group after group."""

    def walk() -> Iterator[Variable]:
        for name, info in model.model_fields.items():
            kind = info.annotation
            if isinstance(kind, type) and issubclass(kind, Group):
                for field, inner in kind.model_fields.items():
                    yield _variable(f"{PREFIX}{kind.env_prefix}", name, field, inner)
            else:
                yield _variable(PREFIX, None, name, info)

    return tuple(walk())


def _variable(prefix: str, group: str | None, field: str, info: FieldInfo) -> Variable:
    return Variable(
        name=f"{prefix}{field.upper()}",
        group=group,
        field=field,
        meaning=info.description or "",
        default=info.default,
        is_secret=SecretStr in (info.annotation, *get_args(info.annotation)),
    )


def values(
    known: Sequence[Variable], env: Mapping[str, str], read_secret: SecretReader
) -> dict[str, Any]:
    """Nested field values of what `env` sets. Raises SettingsError with every problem found."""
    found = list(_unknown(known, env))
    insecure = env.get(f"{PREFIX}ALLOW_INSECURE", "").strip().lower() in _TRUE
    fields: dict[str, Any] = {}
    for variable in known:
        try:
            value = _value(variable, env, read_secret, insecure=insecure)
        except SettingsError as error:
            found.extend(error.problems)
            continue
        if value is not None:
            holder = fields if variable.group is None else fields.setdefault(variable.group, {})
            holder[variable.field] = value
    if found:
        raise SettingsError(*found)
    return fields


def _unknown(known: Sequence[Variable], env: Mapping[str, str]) -> Iterator[str]:
    names = {variable.name for variable in known}
    names |= {variable.file_name for variable in known if variable.is_secret}
    for name in sorted(env):
        if name.startswith(PREFIX) and not name.startswith(TEST_PREFIX) and name not in names:
            near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]}?" if near else ""
            shown = name[:80].encode("unicode_escape").decode("ascii")
            yield f"{shown} is not a setting of newsloom.{hint}"


def _value(
    variable: Variable, env: Mapping[str, str], read_secret: SecretReader, *, insecure: bool
) -> str | None:
    value = env.get(variable.name, "").strip() or None
    path = env.get(variable.file_name, "").strip() if variable.is_secret else ""
    if not path:
        return value
    if value is not None:
        msg = f"{variable.name} and {variable.file_name} are both set: unset one of them."
        raise SettingsError(msg)
    try:
        return read_secret(Path(path), insecure)
    except SettingsError as error:
        msg = f"{variable.file_name} {error}."
        raise SettingsError(msg) from None


def read_secret_file(path: Path, insecure: bool) -> str:  # noqa: FBT001 - shape of SecretReader
    """Return the secret in a file, without its last line end.

    The file must be small, regular, and closed to others: not writable by its group, no rights for
    everyone. In /run/secrets, where a container runtime mounts secrets with modes that its user
    cannot choose, being readable by everyone is accepted; `insecure` accepts any mode.
    """
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - Path has no opener
    except OSError as error:
        msg = f"names a file that cannot be read ({os.strerror(error.errno or 0)})"
        raise SettingsError(msg) from None
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            msg = "must name a regular file"
            raise SettingsError(msg)
        mounted = _CONTAINER_SECRETS in path.absolute().parents
        refused = stat.S_IWGRP | stat.S_IWOTH | (0 if mounted else stat.S_IROTH | stat.S_IXOTH)
        if status.st_mode & refused and not insecure:
            msg = f"names a file with mode {stat.S_IMODE(status.st_mode):04o}: run chmod 0400 on it"
            raise SettingsError(msg)
        content = file.read(_MAX_SECRET_FILE_BYTES + 1)
    return _secret_text(content)


def _open_without_waiting(path: str, flags: int) -> int:
    # A FIFO without a writer would hang the start.
    return os.open(path, flags | os.O_NONBLOCK)


def _secret_text(content: bytes) -> str:
    if len(content) > _MAX_SECRET_FILE_BYTES:
        msg = "names a file that is too large for a secret"
        raise SettingsError(msg)
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        msg = "names a file that is not UTF-8 text"
        raise SettingsError(msg) from None
    if not text.isprintable() or not text:
        msg = "names a file that is empty or holds control characters"
        raise SettingsError(msg)
    return text


def problems(known: Sequence[Variable], error: ValidationError) -> list[str]:
    """One sentence for each thing that pydantic found, without the values it found it in."""
    names = {(variable.group, variable.field): variable.name for variable in known}
    return [_sentence(names, details) for details in error.errors(include_input=False)]


def _sentence(names: Mapping[tuple[str | None, str], str], details: Any) -> str:
    raised = details.get("ctx", {}).get("error")
    if isinstance(raised, ValueError):
        return str(raised)  # one of ours: names the variable, quotes no value
    location = [str(part) for part in details["loc"]]
    group, field = (location[0], location[1]) if len(location) > 1 else (None, location[0])
    name = names.get((group, field), ".".join(location))
    expected = details["msg"].removeprefix("Input should be ")
    if expected != details["msg"]:
        return f"{name} must be {expected}."
    return f"{name} cannot be used: {details['msg'][:200]}."
