"""What is wrong with a record: every finding with its path, the weightiest one as the reason."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from newsloom.errors import Rejected, RejectReason


class Problem(NamedTuple):
    """One finding. `path` names a field as in `images.url`, empty for the record as a whole.

    `message` quotes no record text.
    """

    path: str
    reason: RejectReason
    message: str


_FIRST: Final = (
    RejectReason.NOT_AN_ARTICLE,
    RejectReason.TEXT_SURROGATE,
    RejectReason.TEXT_CONTROL,
    RejectReason.URL_SCHEME,
    RejectReason.URL_LENGTH,
    RejectReason.URL_INVALID,
)


class Invalid(Rejected):
    """A record that parsed but breaks the rules of the family; `problems` has every finding."""

    def __init__(self, reason: RejectReason, detail: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(reason, detail)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> "Invalid":
        """Put the finding that says most about the record first; it gives the reason."""
        ordered = sorted(problems, key=_weight)
        missing = [p.path for p in ordered if p.reason is RejectReason.NOT_AN_ARTICLE]
        if missing:
            # One finding, however much is missing: that it is an article of some other kind.
            detail = f"missing {', '.join(missing)}"
            others = ordered[len(missing) :]
            problem = Problem("", RejectReason.NOT_AN_ARTICLE, detail)
            return cls(problem.reason, detail, (problem, *others))
        first = ordered[0]
        return cls(first.reason, f"{first.path}: {first.message}", ordered)

    def __reduce__(self) -> tuple[type["Rejected"], tuple[RejectReason, str]]:
        """Survive the way back from a parse worker process whole."""
        return type(self), (self.reason, self.detail, self.problems)  # type: ignore[return-value]


def problems_of(rejected: Rejected) -> tuple[Problem, ...]:
    """Return every finding of a refusal; a refusal before any field was read is one finding."""
    if isinstance(rejected, Invalid) and rejected.problems:
        return rejected.problems
    return (Problem("", rejected.reason, rejected.detail),)


def _weight(problem: Problem) -> int:
    return _FIRST.index(problem.reason) if problem.reason in _FIRST else len(_FIRST)
