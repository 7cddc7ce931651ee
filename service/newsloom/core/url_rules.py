"""The data behind `identity`: tracking parameters, AMP forms, mobile hosts, wrappers.

Read once, at import, from the package's own `url_rules.toml`: knowledge about publishers changes
oftener than code and is reviewed by other people, so it is kept out of the code.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class UrlRules:
    """`url_rules.toml` in the shapes the canonicaliser looks things up in."""

    parameter_prefixes: tuple[str, ...]
    parameter_names: frozenset[str]
    parameter_values: Mapping[str, frozenset[str]]
    parameters_by_host: Mapping[str, frozenset[str]]
    session_parameters: tuple[str, ...]
    amp_caches: tuple[str, ...]
    amp_hosts: Mapping[str, str]
    amp_paths: Mapping[str, tuple[str, str]]
    mobile_prefixes: tuple[str, ...]
    mobile_sections: frozenset[str]
    wrappers: Mapping[str, tuple[str, ...]]


def load_rules(text: str) -> UrlRules:
    """Read the rules from TOML. Raises KeyError or TOMLDecodeError for a broken file."""
    data = tomllib.loads(text)
    parameters, amp, mobile = data["parameters"], data["amp"], data["mobile"]
    return UrlRules(
        parameter_prefixes=tuple(parameters["prefixes"]),
        parameter_names=frozenset(parameters["names"]),
        parameter_values={k: frozenset(v) for k, v in parameters["values"].items()},
        parameters_by_host={k: frozenset(v) for k, v in parameters["hosts"].items()},
        session_parameters=tuple(data["path"]["session_parameters"]),
        amp_caches=tuple(amp["caches"]),
        amp_hosts=dict(amp["hosts"]),
        amp_paths={k: (v[0], v[1]) for k, v in amp["paths"].items()},
        mobile_prefixes=tuple(mobile["prefixes"]),
        mobile_sections=frozenset(mobile["sections"]),
        wrappers={k: tuple(v) for k, v in data["wrappers"].items()},
    )


RULES = load_rules(
    (resources.files("newsloom.core") / "url_rules.toml").read_text(encoding="utf-8"),
)
