import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from newsloom.core.contracts import article_schema, contracts
from newsloom.core.record import record_from_mapping, record_from_text
from newsloom.errors import Rejected

ROOT = Path(__file__).parents[2]
ASYNCAPI_SCHEMA = ROOT / "tests" / "data" / "asyncapi-3.1.0.schema.json.gz"


@pytest.fixture(scope="module")
def asyncapi_validator() -> Any:
    return jsonschema.Draft7Validator(json.loads(gzip.decompress(ASYNCAPI_SCHEMA.read_bytes())))


@pytest.fixture(scope="module")
def record_validator() -> Any:
    jsonschema.Draft202012Validator.check_schema(article_schema())
    return jsonschema.Draft202012Validator(article_schema())


@pytest.mark.parametrize("name", sorted(contracts()))
def test_the_committed_contracts_are_those_of_the_models(name: str) -> None:
    committed = (ROOT / "contracts" / name).read_text(encoding="utf-8")
    assert committed == contracts()[name], "run `newsloom contracts`"


def test_the_asyncapi_document_is_valid(asyncapi_validator: Any) -> None:
    document = yaml.safe_load(contracts()["asyncapi.yaml"])
    assert list(asyncapi_validator.iter_errors(document)) == []
    document["operations"]["publishArticle"]["action"] = "sned"
    assert list(asyncapi_validator.iter_errors(document)) != []


def test_every_reference_in_the_asyncapi_document_leads_somewhere() -> None:
    document = yaml.safe_load(contracts()["asyncapi.yaml"])
    references = list(find_references(document))
    assert len(references) > 10
    for reference in references:
        if reference.startswith("./"):
            assert reference.removeprefix("./") in contracts()
            continue
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def find_references(node: Any) -> Any:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from find_references(value)
    elif isinstance(node, list):
        for value in node:
            yield from find_references(value)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "samples").glob("*.md")), ids=lambda path: path.stem
)
def test_what_is_sent_fits_the_schema(path: Path, record_validator: Any) -> None:
    try:
        record = record_from_text(path.read_text(encoding="utf-8")).record
    except Rejected:
        assert path.stem.startswith("person-")
        return
    record_validator.validate(json.loads(record.to_wire()))


@pytest.mark.parametrize(
    "record",
    [
        {"title": "x"},
        {"webUrl": "https://a.example"},
        {"title": " ", "webUrl": "https://a.example"},
        {"title": "x", "webUrl": "https://a.example", "publishedDateTime": "soon"},
        {"title": ["x"], "webUrl": "https://a.example"},
    ],
)
def test_what_ingest_refuses_does_not_fit_the_schema(
    record: dict[str, Any], record_validator: Any
) -> None:
    assert not record_validator.is_valid(record)
    with pytest.raises(Rejected):
        record_from_mapping(record)
