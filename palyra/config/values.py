"""What is set, where it was set, and what it hides: the settings of one table while the layers are read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from palyra.config.document import Document
from palyra.config.keys import ENTRY_TABLES, ROOT, Table
from palyra.config.problems import DEFAULT, Findings, Path, Source, SourceKind, key_text
from palyra.config.schema import check, find_secrets, normal

#: Keys by which a secret itself is written, each with a sibling that says where one is.
_ABSORBED = re.compile(
    r"model_provider\.providers\[\d+\]\.api_key|auth\.oauth\.openai\.client_secret|alerts\.webhook_secret"
)
_ABSORB = "run: palyra vault absorb (or name a variable or a file with api_key_env or api_key_file)"
_PUT = "take it out; palyra vault put global/NAME keeps one, which api_key_vault_ref names (or see api_key_env)"


class Sources:
    """Where a value stands, and where each place inside it does; looked up only when somebody asks."""

    __slots__ = ("_document", "_fixed", "path")

    def __init__(self, document: Document | None, path: Path, fixed: Source = DEFAULT) -> None:
        self._document = document
        self._fixed = fixed
        self.path = path

    @classmethod
    def fixed(cls, source: Source) -> Sources:
        """Return the source of a value that has no places inside: a variable's, a flag's, a default's."""
        return cls(None, (), source)

    @classmethod
    def derived(cls, key: str) -> Sources:
        """Return the source of a value that follows from another key."""
        return cls(None, (), Source(kind="derived", name=key))

    @property
    def kind(self) -> SourceKind:
        return self._document.kind if self._document else self._fixed.kind

    def at(self, inside: Path = ()) -> Source:
        return self._document.source((*self.path, *inside)) if self._document else self._fixed

    def outside(self) -> Sources:
        """Return the places of the table around the value."""
        return Sources(self._document, self.path[:-1], self._fixed)


NOT_WRITTEN = Sources.fixed(DEFAULT)


class Setting(NamedTuple):
    """An effective value and where it comes from."""

    value: Any
    sources: Sources


class Values:
    """What is set in one table: the whole file's keys, or one entry of an array of tables."""

    def __init__(self, table: Table, path: Path, header: Sources) -> None:
        self.table = table
        #: () for the file; else table and index.
        self.path = path
        self._prefix = f"{key_text(path)}." if path else ""
        #: Place of the entry's header.
        self.header = header
        self.settings: dict[str, Setting] = {}
        #: What an effective value hides, nearest first.
        self.hidden: dict[str, list[Sources]] = {}
        #: Names with a value that was refused.
        self.faulty: set[str] = set()

    def put(self, name: str, value: Any, sources: Sources) -> None:
        """Set a value on top of what is there."""
        if name in self.settings:
            self.hidden.setdefault(name, []).insert(0, self.settings[name].sources)
        self.settings[name] = Setting(value, sources)

    def derive(self, values: Mapping[str, Any], origin: Sources) -> None:
        """Set what follows from something else, where nothing was written."""
        for name, value in values.items():
            if name not in self.settings:
                self.settings[name] = Setting(value, origin)

    def is_written(self, name: str) -> bool:
        return name in self.settings and self.settings[name].sources.kind not in ("default", "derived")

    def get(self, name: str) -> Any:
        """Return the effective value; None where nothing is set and the key has no default."""
        return self.settings[name].value if name in self.settings else self.table.keys[name].default

    def source(self, name: str, inside: Path = ()) -> Source:
        """Return where to point at for a key or a place inside its value; without either, the entry's header."""
        return self.settings[name].sources.at(inside) if self.is_written(name) else self.header.at()

    def key(self, name: str, inside: Path = ()) -> str:
        """Return the full name of a key, or of a place inside its value: `model_provider.models[3].aliases[0]`."""
        return key_text(inside, f"{self._prefix}{name}") if inside else f"{self._prefix}{name}"

    def keep(self, names: Collection[str]) -> None:
        """Forget every setting that has none of these names."""
        self.settings = {name: setting for name, setting in self.settings.items() if name in names}
        self.hidden = {name: hidden for name, hidden in self.hidden.items() if name in names}

    def fill(self) -> None:
        """Set every default that is left."""
        for name, key in self.table.keys.items():
            if name not in self.settings:
                self.settings[name] = Setting(key.default, NOT_WRITTEN)


class Reading:
    """One configuration while its layers are put on top of each other.

    Every value of every layer is checked, also one that another layer hides; a faulty one is reported and left out.
    """

    def __init__(self, findings: Findings, home: str) -> None:
        self.findings = findings
        self._home = home
        self.root = Values(ROOT, (), NOT_WRITTEN)
        self.entries: dict[str, list[Values]] = {path: [] for path in ENTRY_TABLES}
        #: Variables and flags that were used, as (kind, name).
        self.names: list[tuple[str, str]] = []

    def all_entries(self) -> Iterator[Values]:
        for entries in self.entries.values():
            yield from entries

    def accept(self, values: Values, name: str, value: Any, sources: Sources) -> None:
        """Check one value and set it, or report what is wrong with it."""
        key = values.table.keys[name]
        if self.refuse_secrets(value, values.key(name), sources):
            values.faulty.add(name)
            return
        faults = list(check(key, value))
        for fault in faults:
            full, source = values.key(name, fault.path), sources.at(fault.path)
            self.findings.error(fault.code, full, fault.message, source, fault.suggestion)
        if faults:
            values.faulty.add(name)
        else:
            values.put(name, normal(key, value, self._home), sources)

    def refuse(
        self, code: str, values: Values, name: str, message: str, *, inside: Path = (), suggestion: str = ""
    ) -> None:
        """Report an error at a key, or at a place inside its value."""
        self.findings.error(code, values.key(name, inside), message, values.source(name, inside), suggestion)

    def warn(
        self, code: str, values: Values, name: str, message: str, *, inside: Path = (), suggestion: str = ""
    ) -> None:
        """Report a warning in the same way."""
        self.findings.warning(code, values.key(name, inside), message, values.source(name, inside), suggestion)

    def refuse_secrets(self, value: Any, full: str, sources: Sources) -> bool:
        """Report everything of a secret's shape in a value; what else is wrong with it stays untold."""
        places = list(find_secrets(value))
        for place in places:
            self.refuse_secret(key_text(place, full), sources.at(place))
        return bool(places)

    def refuse_secret(self, full: str, source: Source) -> None:
        self.findings.error(
            "inline_secret",
            full,
            "secrets do not belong in the configuration",
            source,
            _ABSORB if _ABSORBED.fullmatch(full) and source.kind == "file" else _PUT,
        )

    def require(self) -> None:
        """Report what an entry must say and does not, after all layers."""
        for values in self.all_entries():
            for name, key in values.table.keys.items():
                if key.required and name not in values.settings and name not in values.faulty:
                    self.refuse("missing_key", values, name, "must be set")
