"""Why an embedded service is not there, in one sentence that says what to do."""

from typing import Literal

from newsloom.errors import Unavailable


class EmbeddedServiceError(Unavailable):
    """An embedded service cannot be had. `str()` of it is a sentence for a person.

    `code` is one of: not_installed, download, jar, disk, folder, ownership, version, port_in_use,
    foreign_process, start, lock.
    """

    def __init__(self, service: Literal["kafka", "postgres"], code: str, sentence: str) -> None:
        super().__init__(service, code)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence
