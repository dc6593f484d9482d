"""The house, checked: imports point down, the pure rooms stay pure, and each outside thing has its one place.

Read from the syntax trees alone; nothing is imported. A rule is a table at the top of its test or of this file; an
exception stands in the table with its reason.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1] / "palyra"

#: Floor of each room or module directly below `palyra`; imports point down or stay on their floor.
FLOORS = {
    **dict.fromkeys(["units", "limits", "errors", "redaction", "usage"], 0),
    **dict.fromkeys(["events", "projections", "decisions", "wire"], 1),
    **dict.fromkeys(["journal", "providers", "auth", "memory", "skills", "config"], 2),
    "engine": 3,
    **dict.fromkeys(["daemon", "supervisor", "doctor", "console"], 4),
    **dict.fromkeys(["adoption", "alone", "api", "app", "home", "outside", "readonly", "service", "telling"], 5),
    **dict.fromkeys(["face", "through", "watching", "cli", "__init__", "__main__"], 5),
}
#: What a room may import of the rooms on its own floor. Rooms of floor 2 do not know each other.
NEIGHBOURS = {
    "events": [],
    "projections": ["events"],
    "decisions": ["events", "projections"],
    "wire": [],
    **{room: [] for room, floor in FLOORS.items() if floor == 2},
}
#: Rooms further down that a room must not know all the same, and why.
FORBIDDEN = {
    "wire": (["events", "projections", "decisions"], "it translates protocols and knows no fact"),
    "journal": (["events", "projections", "decisions"], "it stores rows and knows not what a fact means"),
    "providers": (["events", "projections", "decisions"], "it moves bytes; what they mean is read elsewhere"),
    "skills": (["events"], "what it finds is recorded by whoever asked"),
}
PURE_ROOMS = ["events", "projections", "decisions", "wire"]
IMPURE = (
    "asyncio trio aiohttp aiosqlite sqlite3 os socket random secrets uuid time logging structlog threading"
).split()

#: Outside modules with a place of their own: what else may import them, by module or room, and why.
PLACES: dict[str, dict[str, str]] = {
    "trio": {"supervisor": "the tree", "app": "composes it"},
    "aiosqlite": {"journal": "its writer", "auth": "the vault", "memory": "its store"},
    "sqlite3": {"journal": "its readers", "auth": "the vault", "memory": "its store"},
    "aiohttp.web": {"daemon": "the server"},
    "wasmtime": {"skills": "the audit"},
    "uuid": {"engine.ids": "makes ids"},
    "random": {"engine.ids": "rolls dice"},
    "secrets": {
        "engine.ids": "makes ids",
        "auth.oauth": "makes the verifier, state, nonce and cookie of a login",
        "auth.keys": "a key's secret part is made where keys are",
        "auth.keyfiles": "so is the vault key",
        "auth.sealing": "makes nonces",
        "auth.vault": "names a new vault",
    },
}
#: Asks a clock. Conversions of given instants are free.
CLOCKS = {
    "time": (
        "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns"
        " thread_time thread_time_ns localtime gmtime"
    ).split(),
    "datetime": ["now", "utcnow", "today"],
    "date": ["today"],
}
MAY_ASK_THE_TIME = {
    "engine.clock": "the one place",
    "supervisor.bridge": "measures its own crossings; the figures are shown and never recorded",
}
MAY_REVEAL = {
    "providers.http": "writes the Authorization header",
    "auth.keyfiles": "writes and reads key files",
    "auth.keys": "digests a key to recognise it",
    "auth.keysource": "keeps the vault's key",
    "auth.oauth": "writes forms of a token endpoint and digests what comes back",
    "auth.references": "reads what a reference leads to",
    "engine.token_endpoint": "writes the body of a form",
    "engine.webhook": "signs what it tells",
    "engine.credential_checks": "takes a key out of what a provider says about it",
    "auth.sealing": "derives keys from the vault's",
    "auth.sealed": "seals what it is given",
    "daemon.doorkeeper": "hands a browser the cookie and the token of its login",
    "engine.console.oauth": "gives the one answer that holds the address of a login",
    "engine.oauth": "digests and spells launch codes",
    "daemon.login_pages": "hands a browser its cookie and sends it to the provider",
    "engine.console.keys": "gives the one answer that holds a new key",
    "engine.logins": "digests what it hands out",
    "cli.absorb": "hands the vault the keys that stood in the configuration",
    "cli.vault": "hands the vault what it was given",
    "cli.profile_changes": "hands the key that was asked for to whoever checks and keeps it",
    "cli.model_config": "hands a new key to whoever checks it",
    "cli.env": "prints the user's own client key when asked to",
    "app": "hands the program that embeds it the client key of its own daemon",
}


class Import(NamedTuple):
    """One imported name, as far as it is a module: `palyra.events.base` or `aiohttp.web`."""

    target: str
    line: int

    @property
    def room(self) -> str:
        """The room of ours that it leads to, "" for the package itself and for modules of others."""
        package, _, rest = self.target.partition(".")
        room = rest.partition(".")[0]
        return room if package == "palyra" and room in FLOORS else ""


class Module(NamedTuple):
    """A file of the package: dotted name below `palyra`, all nodes of its tree, all that it imports."""

    name: str
    nodes: tuple[ast.AST, ...]
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]


def imports_in(nodes: tuple[ast.AST, ...]) -> Iterator[Import]:
    """Yield every import, inside functions and for type checkers too; `from x import y` counts as x and x.y."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their direction"
            yield Import(node.module or "", node.lineno)
            for alias in node.names:
                yield Import(f"{node.module}.{alias.name}", node.lineno)


@functools.cache
def modules() -> list[Module]:
    """Read the package: for these tests alone, and not while others are only collected."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        nodes = tuple(ast.walk(ast.parse(path.read_text(), filename=str(path))))
        found.append(Module(dotted.removesuffix(".__init__"), nodes, tuple(imports_in(nodes))))
    return found


@pytest.fixture(scope="module", autouse=True)
def _let_go() -> Iterator[None]:
    """Half a million nodes would be looked through by each garbage collection of the tests that follow."""
    yield
    modules.cache_clear()


def is_in(name: str, places: Mapping[str, str]) -> bool:
    """Return whether a module is one of the places or inside one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def check(rule: Callable[[Module], Iterator[tuple[int, str]]], rooms: list[str] | None = None) -> None:
    """Fail with `module:line: what` for everything that a rule finds."""
    found = {
        f"palyra/{module.name.replace('.', '/')}.py:{line}: {what}": None
        for module in modules()
        if rooms is None or module.room in rooms
        for line, what in rule(module)
    }
    assert not found, "\n".join(["the house has another plan:", *found])


def test_every_room_has_a_floor() -> None:
    """A new room or module beside them is placed in the table above before it is used."""
    assert {module.room for module in modules()} <= set(FLOORS)


def test_imports_point_down() -> None:
    """No module imports from a floor above its own."""

    def rule(module: Module) -> Iterator[tuple[int, str]]:
        for one in module.imports:
            if one.room and FLOORS[one.room] > FLOORS[module.room]:
                yield one.line, f"floor {FLOORS[module.room]} imports {one.target} of floor {FLOORS[one.room]}"

    check(rule)


def test_rooms_of_one_floor_keep_to_themselves() -> None:
    """decisions -> projections -> events; wire alone; journal, providers, auth, memory, skills, config apart."""

    def rule(module: Module) -> Iterator[tuple[int, str]]:
        allowed = [module.room, *NEIGHBOURS[module.room]]
        for one in module.imports:
            if one.room and FLOORS[one.room] == FLOORS[module.room] and one.room not in allowed:
                yield one.line, f"{module.room} imports its neighbour {one.target}"

    check(rule, list(NEIGHBOURS))


def test_some_rooms_must_not_know_what_lies_below_them() -> None:
    """Storing, moving and translating bytes needs no facts."""

    def rule(module: Module) -> Iterator[tuple[int, str]]:
        rooms, why = FORBIDDEN[module.room]
        for one in module.imports:
            if one.room in rooms:
                yield one.line, f"{module.room} imports {one.target}, but {why}"

    check(rule, list(FORBIDDEN))


def test_the_pure_rooms_import_nothing_that_acts() -> None:
    """No loop, disk, socket, clock, dice, log or thread in events, projections, decisions and wire."""

    def rule(module: Module) -> Iterator[tuple[int, str]]:
        for one in module.imports:
            if one.target.partition(".")[0] in IMPURE:
                yield one.line, f"a pure room imports {one.target}"
        for node in module.nodes:
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                yield node.lineno, "a pure room waits"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print"):
                yield node.lineno, f"a pure room calls {node.func.id}"

    check(rule, PURE_ROOMS)


#: What compares models and what turns usage into money, and the modules that may ask it: no way leads past them.
DECIDED_ONCE = {
    # The last two check what was charged: against itself, and against a provider's account.
    "cost_of": (
        *("pricing", "usage", "estimates", "recost", "what_if"),
        *("engine.reports.verify", "engine.reports.reconcile"),
    ),
    "cost_ceiling": ("pricing", "sizing"),
    "evaluate_budgets": ("budgets",),
    "rank_models": ("ranking", "planning"),
    "plan_usage_routing": ("planning", "runs", "flips", "engine.choices"),
}


def test_models_are_chosen_and_priced_in_one_place() -> None:
    """Every endpoint and every report asks the same functions, so that no route escapes the rules about usage."""

    def rule(module: Module) -> Iterator[tuple[int, str]]:
        for node in module.nodes:
            called = node.func if isinstance(node, ast.Call) else None
            name = getattr(called, "id", getattr(called, "attr", ""))
            places = DECIDED_ONCE.get(name, ())
            if places and module.name.removeprefix("decisions.") not in places:
                yield node.lineno, f"{module.name} calls {name}"

    check(rule, list(FLOORS))


@pytest.mark.parametrize("outside", PLACES)
def test_outside_modules_keep_to_their_places(outside: str) -> None:
    """trio in the tree, SQLite where data is stored, the web server in the daemon, dice and ids in one file."""

    def rule(module: Module) -> Iterator[tuple[int, str]]:
        for one in module.imports:
            is_meant = one.target == outside or one.target.startswith(f"{outside}.")
            if is_meant and not is_in(module.name, PLACES[outside]):
                yield one.line, f"{outside} is imported outside {', '.join(PLACES[outside])}"

    check(rule)


def test_one_place_asks_the_time() -> None:
    """Everybody else is given the instant, or a clock."""

    def rule(module: Module) -> Iterator[tuple[int, str]]:
        if is_in(module.name, MAY_ASK_THE_TIME):
            return
        for one in module.imports:
            package, _, name = one.target.rpartition(".")
            if package == "time" and name in CLOCKS["time"]:
                yield one.line, f"imports {one.target}"
        for node in module.nodes:
            match node:
                case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr=name):
                    if name in CLOCKS.get(owner, ()):
                        yield node.lineno, f"asks {owner}.{name}"

    check(rule)


def test_secrets_are_revealed_in_few_places() -> None:
    """A secret becomes text only where it goes on a wire, into its file or through a digest."""

    def rule(module: Module) -> Iterator[tuple[int, str]]:
        for node in module.nodes:
            if isinstance(node, ast.Attribute) and node.attr == "reveal" and not is_in(module.name, MAY_REVEAL):
                yield node.lineno, "reveals a secret"

    check(rule)


ORDERED_USES = "list tuple dict enumerate map filter zip iter next join extend fromkeys".split()


def _is_set(node: ast.expr, names: frozenset[str]) -> bool:
    """Return whether an expression is plainly a set: a literal, a call, sets combined, a name bound to one."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.BinOp(left=left, right=right, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
            return _is_set(left, names) or _is_set(right, names)
        case ast.Name(id=name):
            return name in names
    return False


def set_iterations(nodes: tuple[ast.AST, ...]) -> Iterator[int]:
    """Yield the lines on which a set's order would matter."""
    names = frozenset(
        target.id
        for node in nodes
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and _is_set(node.value, frozenset())
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    )
    for node in nodes:
        iterated: list[ast.expr] = []
        match node:
            case (
                ast.For(iter=one) | ast.comprehension(iter=one) | ast.Starred(value=one) | ast.YieldFrom(value=one)
            ):
                iterated = [one]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args) if name in ORDERED_USES:
                iterated = args
        yield from (one.lineno for one in iterated if _is_set(one, names))


def test_the_pure_rooms_iterate_over_no_bare_set() -> None:
    """The order of a set differs from process to process; `sorted` and membership do not care."""

    def rule(module: Module) -> Iterator[tuple[int, str]]:
        yield from ((line, "iterates over a set") for line in set_iterations(module.nodes))

    check(rule, PURE_ROOMS)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("for x in {1, 2}: pass", [1]),
        ("a = [x for x in set(y)]", [1]),
        ("list({1} | other)", [1]),
        ("', '.join(frozenset(y))", [1]),
        ("known: set[str] = set()\nfor x in known: pass", [2]),
        ("[*{1, 2}]", [1]),
        ("sorted({*a, 1})\nx in {1, 2}\nlen(set(y))\nfor x in sorted(set(y)): pass\n[*[1]]", []),
    ],
)
def test_the_rule_about_sets_sees_what_it_should(source: str, lines: list[int]) -> None:
    """The checker is checked: order is used here and not there."""
    assert sorted(set_iterations(tuple(ast.walk(ast.parse(source))))) == lines


def test_every_module_opens_with_a_sentence() -> None:
    """It says at its top what it is for; only the markers of packages may be empty."""
    trees = [(module.name, module.nodes[0]) for module in modules() if len(module.nodes) > 1]
    assert [name for name, tree in trees if isinstance(tree, ast.Module) and not ast.get_docstring(tree)] == []
