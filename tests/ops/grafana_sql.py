"""What Grafana's Postgres data source makes of the macros in a query, for the ones we use."""

import re

_SECONDS = {"1h": 3600}


def expand(query: str, since: str, until: str) -> str:
    """Replace the macros; `since` and `until` are timestamps as SQL literals without quotes."""
    query = re.sub(
        r"\$__timeFilter\(([\w.]+)\)", rf"\1 BETWEEN '{since}' AND '{until}'", query, flags=re.ASCII
    )
    query = query.replace("$__timeFrom()", f"'{since}'").replace("$__timeTo()", f"'{until}'")
    query = re.sub(r"\$__timeGroupAlias\(([\w.]+), '(\w+)'\)", _group_alias, query)
    query = re.sub(r"\$__timeGroup\(([\w.]+), '(\w+)'\)", _group, query)
    assert "$" not in query, f"unknown macro in {query}"
    return query


def _group(match: re.Match[str]) -> str:
    seconds = _SECONDS[match[2]]
    return f"floor(extract(epoch from {match[1]})/{seconds})*{seconds}"


def _group_alias(match: re.Match[str]) -> str:
    return f'{_group(match)} AS "time"'
