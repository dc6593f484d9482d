"""The vocabulary is one thing in three places: Structs, registry and the page that documents them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from facts import facts
from hypothesis import given as generated
from hypothesis import settings
from registries import THREE
from story import World, admit, boot, break_down, fail, given, go_on, recover, serve, start

import palyra.events
from palyra.events.base import Fact, UnknownEvent
from palyra.events.vocabulary import VOCABULARY, Entry, Retention, Vocabulary

PAGE = Path(palyra.events.__file__).with_name("VOCABULARY.md")
GOLDEN = Path(__file__).parent / "events" / "golden.jsonl"

#: Plain data of others, whatever it holds: the adopted tree and the rules of the deterministic provider.
UNTYPED = ["ConfigAdopted.effective", "ProviderEntry.rules"]


def table(heading: str) -> dict[str, list[str]]:
    """Return the rows of a table of the page by their first column, without backticks."""
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({row[0] for row in rows}) == len(rows), "a name stands twice"
    return {row[0].strip("`"): row[1:] for row in rows}


def fields_of(kind: type[Any]) -> str:
    """Return the fields of a Struct as the page lists them."""
    names = [f"`{field.name}{'' if field.required else '?'}`" for field in msgspec.structs.fields(kind)]
    return " ".join(names) or "-"


def struct_name(name: str) -> str:
    """Return the Struct's name of an event: `attempt.failed` -> `AttemptFailed`."""
    return "".join(word.capitalize() for word in re.split(r"[._]", name))


def parts_in(annotation: Any) -> Iterator[type[Any]]:
    """Yield the Structs inside a type, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
        for field in msgspec.structs.fields(annotation):
            yield from parts_in(field.type)
    for argument in get_args(annotation):
        yield from parts_in(argument)


STRUCTS = [entry.struct for entry in VOCABULARY.entries.values()]
PARTS = {
    part.__name__: part
    for struct in STRUCTS
    for field in msgspec.structs.fields(struct)
    for part in parts_in(field.type)
}


def test_every_fact_is_in_the_registry() -> None:
    """Each Struct of the room that derives from `Fact` has its entry, and no other has."""
    modules = pkgutil.iter_modules(palyra.events.__path__, "palyra.events.")
    found = {
        value
        for module in modules
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, type) and issubclass(value, Fact) and value is not Fact
    }
    assert found == set(STRUCTS)


def test_the_page_lists_the_registry_in_its_order() -> None:
    """Name, schema, retention and fields of every event as they are; the row to write is in the failure."""
    documented = {name: row[1:] for name, row in table("Events").items()}
    assert documented == {
        entry.name: [str(entry.schema), entry.retention, fields_of(entry.struct)]
        for entry in VOCABULARY.entries.values()
    }
    assert list(documented) == list(VOCABULARY.entries)


def test_the_page_lists_the_parts() -> None:
    """Structs inside bodies are part of their shape."""
    assert table("Parts") == {name: [fields_of(PARTS[name])] for name in sorted(PARTS)}


def test_a_struct_is_named_like_its_event() -> None:
    """Whoever knows the name finds the Struct: family and verb in capitals."""
    assert [struct.__name__ for struct in STRUCTS] == [struct_name(name) for name in VOCABULARY.entries]


def test_a_name_is_a_family_and_a_past_tense() -> None:
    """`family.happened`, in lower case."""
    for name, entry in VOCABULARY.entries.items():
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", name)
        assert entry.retention in get_args(Retention)
        assert entry.struct.__doc__, f"{name} says nothing about itself"


def told_story() -> World:
    """A history with most of what happens to runs."""
    world = given(THREE, serve("r1"), break_down("r2", "model_unavailable"), admit("r3", "nobody"))
    world.do(admit("r4"), start("r4"), fail("r4", may_retry=False), go_on("r4"), start("r4", candidate=1))
    return world.do(boot(), recover())


def test_events_stand_in_the_streams_that_the_page_names() -> None:
    """What the decisions write goes where the page says."""
    patterns = {
        name: re.sub(r"<[a-z_]+>", ".+", re.escape(row[0].strip("`"))) for name, row in table("Events").items()
    }
    world = told_story()
    assert len(world.state.counts) > 12
    for one in world.history:
        assert re.fullmatch(patterns[VOCABULARY.name_of(one.body)], one.stream)


@pytest.mark.parametrize("kind", [*STRUCTS, *PARTS.values()], ids=lambda kind: kind.__name__)
def test_no_field_is_a_float(kind: type[Any]) -> None:
    """Bodies hold integers, texts, codes and Structs of them; what is not typed is named here."""
    for field in msgspec.structs.fields(kind):
        types = [field.type, *_arguments(field.type)]
        assert float not in types
        if Any in types:
            assert f"{kind.__name__}.{field.name}" in UNTYPED


def _arguments(annotation: Any) -> list[Any]:
    return [each for argument in get_args(annotation) for each in [argument, *_arguments(argument)]]


@pytest.mark.parametrize("kind", [*STRUCTS, *PARTS.values()], ids=lambda kind: kind.__name__)
def test_structs_are_frozen_and_leave_defaults_out(kind: type[Any]) -> None:
    """A fact cannot be changed, is made by keywords, and stores only what differs from the defaults."""
    config = kind.__struct_config__
    assert config.frozen
    assert config.omit_defaults
    assert not config.array_like


@settings(max_examples=100)
@generated(facts())
def test_every_fact_comes_back_from_its_bytes(fact: Fact) -> None:
    """Encoded and decoded it is the same fact, and encoded again the same bytes; the tag is not stored."""
    name, schema = VOCABULARY.name_of(fact), VOCABULARY.schema_of(fact)
    body = VOCABULARY.encode_body(fact)
    assert VOCABULARY.decode(name, schema, body) == fact
    assert VOCABULARY.encode_body(VOCABULARY.decode(name, schema, body)) == body
    assert not body.startswith(b'{"name":"' + name.encode())


class Sample(msgspec.Struct, frozen=True):
    """A line of the golden file."""

    name: str
    schema: int
    body: msgspec.Raw


SAMPLES = [msgspec.json.decode(line, type=Sample) for line in GOLDEN.read_bytes().splitlines()]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.name}-{sample.schema}")
def test_a_golden_sample_is_decoded_for_ever(sample: Sample) -> None:
    """It is a fact of this release, and nothing that it says is lost: a current one encodes to the same bytes."""
    fact = VOCABULARY.decode(sample.name, sample.schema, bytes(sample.body))
    assert isinstance(fact, VOCABULARY.entries[sample.name].struct)
    if sample.schema == VOCABULARY.schema_of(fact):
        assert VOCABULARY.encode_body(fact) == bytes(sample.body)


def test_every_name_and_schema_has_a_golden_sample() -> None:
    """From schema 1 to the current one; a line is added and never changed."""
    expected = [
        (entry.name, schema) for entry in VOCABULARY.entries.values() for schema in range(1, entry.schema + 1)
    ]
    assert sorted((sample.name, sample.schema) for sample in SAMPLES) == sorted(expected)


@pytest.mark.parametrize(
    ("name", "schema", "body"),
    [
        ("new.happened", 1, b'{"x":1,"list":[1,{"y":null}],"text":"\xc3\xa9"}'),
        ("circuit.opened", 2, b'{"until_us":1,"reason":"threshold","colour":"red"}'),
        ("new.happened", 7, b"{}"),
        ("circuit.opened", 0, b"{}"),
    ],
)
def test_what_a_newer_release_wrote_is_kept_as_it_is(name: str, schema: int, body: bytes) -> None:
    """An unknown name, or a known one with a newer schema, is an unknown event with the same bytes."""
    event = VOCABULARY.decode(name, schema, body)
    assert isinstance(event, UnknownEvent)
    assert (VOCABULARY.name_of(event), VOCABULARY.schema_of(event)) == (name, schema)
    assert VOCABULARY.encode_body(event) == body


@pytest.mark.parametrize("body", [b"", b"[]", b'{"until_us":"soon","reason":"x"}', b'{"reason":"x"}', b"{"])
def test_bytes_of_another_shape_are_an_error(body: bytes) -> None:
    """A known name does not decode to half a fact."""
    with pytest.raises(msgspec.DecodeError):
        VOCABULARY.decode("circuit.opened", 1, body)


def test_a_struct_that_nobody_registered_has_no_name() -> None:
    """It cannot be recorded."""

    class Stray(Fact, tag="stray.happened", frozen=True, kw_only=True):
        """Not in the vocabulary."""

    with pytest.raises(KeyError):
        VOCABULARY.name_of(Stray())


class KettleBoiled(Fact, tag="kettle.boiled", frozen=True, kw_only=True):
    """The third shape of a fact: schema 1 had seconds, schema 2 called the kettle its name."""

    kettle_id: str
    took_ms: int
    by: str = "gas"


KETTLES = Vocabulary(
    [Entry("kettle.boiled", KettleBoiled, 3, "pulse")],
    {
        ("kettle.boiled", 1): lambda body: {"name": body["name"], "took_ms": body["seconds"] * 1_000},
        ("kettle.boiled", 2): lambda body: {"kettle_id": body["name"], "took_ms": body["took_ms"]},
    },
)


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (1, b'{"name":"k1","seconds":90}'),
        (2, b'{"name":"k1","took_ms":90000}'),
        (3, b'{"kettle_id":"k1","took_ms":90000}'),
    ],
)
def test_an_old_schema_is_brought_up_step_by_step(schema: int, body: bytes) -> None:
    """Each upcaster leads from one number to the next; the fact is that of today."""
    assert KETTLES.decode("kettle.boiled", schema, body) == KettleBoiled(kettle_id="k1", took_ms=90_000)


def test_an_old_body_that_is_not_its_shape_is_an_error_too() -> None:
    """What an upcaster makes is validated like any stored body."""
    with pytest.raises(msgspec.ValidationError):
        KETTLES.decode("kettle.boiled", 2, b'{"name":"k1","took_ms":"long"}')
